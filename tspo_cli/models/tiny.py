"""A tiny Qwen2 policy that learns to search within minutes on a CPU, thanks to its initial
weights.
"""

from __future__ import annotations

import math

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention

from tspo_cli.config.schema import ModelConfig
from tspo_cli.errors import InvalidInputError

HEAD_DIM = 32  # the smallest that the attention kernels of common engines take
ROPE_THETA = 1e6
SHORTEST_CONTEXT = 1024
EMBEDDING_STD = 0.1
# A previous-token head scores its distance this much (in logits) above the neighbouring ones.
OFFSET_GAP = 4.0
# A copy head raises the logit of an attended token this much more than the random parts of the
# stream.
COPY_GAIN = 2.0


def tiny_model(vocab_size: int, config: ModelConfig, seed: int) -> Qwen2ForCausalLM:
    """A new policy in float32 with tied embeddings; the same seed gives the same weights.

    With `config.copy_prior`, the first two heads of layer 0 attend to the previous token and the
    one before, and the last layer copies what it attends to; these weights are trained like all
    others. Padding is id 0, end of sequence 1.

    Raises:
        InvalidInputError: hidden_size is no multiple of 32, or too small for two heads.
    """
    if config.hidden_size % HEAD_DIM or config.hidden_size < 2 * HEAD_DIM:
        raise InvalidInputError(
            f"model.hidden_size: expected a multiple of {HEAD_DIM} from {2 * HEAD_DIM} up, got "
            f"{config.hidden_size}"
        )
    heads = config.hidden_size // HEAD_DIM
    shape = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=2 * config.hidden_size,
        num_hidden_layers=config.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=max(config.max_context, SHORTEST_CONTEXT),
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(shape).float()
        if config.copy_prior:
            _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: Qwen2ForCausalLM) -> None:
    layers, width = model.model.layers, model.config.hidden_size
    model.model.embed_tokens.weight.normal_(std=EMBEDDING_STD)
    for layer in layers:
        attention, mlp = layer.self_attn, layer.mlp
        for part in (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            mlp.gate_proj,
            mlp.up_proj,
        ):
            part.weight.normal_(std=part.in_features**-0.5)
        for part in (attention.o_proj, mlp.down_proj):
            part.weight.normal_(std=0.5 * (part.in_features * len(layers)) ** -0.5)
    for head, offset in enumerate((1, 2)):
        _look_back(layers[0].self_attn, head, offset)
    _copy(layers[-1].self_attn, width)


def _look_back(attention: Qwen2Attention, head: int, offset: int) -> None:
    """Make a head attend to the token `offset` positions before, whatever the content.

    Rotary embedding turns query and key by their positions; with constant query (A, 0) and key A
    (cos f o, sin f o) in each pair of frequency f, the score at distance D is A^2 times the sum of
    cos f (D - o), which peaks at D = o.
    """
    half = HEAD_DIM // 2
    frequency = ROPE_THETA ** (-torch.arange(half) / half)
    size = math.sqrt(OFFSET_GAP * math.sqrt(HEAD_DIM) / float((1 - frequency.cos()).sum()))
    rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    attention.q_proj.weight[rows] *= 0.02
    attention.k_proj.weight[rows] *= 0.02
    attention.q_proj.bias[rows] = torch.cat([torch.full((half,), size), torch.zeros(half)])
    attention.k_proj.bias[rows] = size * torch.cat(
        [(frequency * offset).cos(), (frequency * offset).sin()]
    )
    attention.o_proj.weight[:, rows].normal_(std=0.1 * HEAD_DIM**-0.5)


def _copy(attention: Qwen2Attention, width: int) -> None:
    """Make the heads of a layer copy the tokens that they attend to: with tied embeddings, an
    attended token raises its own logit.
    """
    rotation = torch.nn.init.orthogonal_(torch.empty(width, width))
    attention.v_proj.weight.copy_(rotation)
    attention.o_proj.weight.copy_(
        COPY_GAIN * EMBEDDING_STD * math.sqrt(width / HEAD_DIM) * rotation.T
    )
