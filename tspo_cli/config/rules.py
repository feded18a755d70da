"""Rules that span several keys: why a configuration of valid keys could still not train."""

from __future__ import annotations

from collections.abc import Iterator

from tspo_cli.config.schema import Config
from tspo_cli.console import agreeing, counted
from tspo_cli.credit.algorithms import ALGORITHMS, Algorithm
from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.credit.user_code import is_user_code, load_function
from tspo_cli.errors import InvalidInputError
from tspo_cli.text.secrets import EXPECTED_VARIABLE, is_variable

SEARCH_NEEDS_AN_INDEX = (
    "retriever.search: these settings are for retriever.index, which is not set; set those of a "
    "server with tspo serve --set KEY=VALUE"
)

# What tspo, or transformers' apply_chat_template, gives the template or takes for itself.
_OWN_ARGUMENTS = {
    *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "sanitize_control_tokens", "padding", "truncation"),
    *("max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask"),
    "tokenizer_kwargs",
}


def rule_problems(config: Config) -> Iterator[str]:
    """The rules that `config` breaks, in one line each that names the key and what to do.

    Raises:
        MissingResourceError: a file of the user's own functions does not exist.
    """
    if config.kind == "sft":
        yield from _sft_problems(config)
    else:
        yield from _rl_problems(config)
        yield from _credit_problems(config)
    for rules in (
        _model_problems,
        _rollout_problems,
        _evaluation_problems,
        _deepspeed_problems,
        portable_problems,
        _retriever_problems,
    ):
        yield from rules(config)


def _model_problems(config: Config) -> Iterator[str]:
    if config.model.hidden_size % 32 or (not config.model.path and config.model.hidden_size < 64):
        yield (
            "model.hidden_size: expected a multiple of 32 from 64 up, got "
            f"{config.model.hidden_size}"
        )
    if config.model.frozen_layers and config.lora.rank:
        yield (
            "model.frozen_layers: with adapters (lora.rank) the whole model is frozen; set one of "
            "the two to 0"
        )


def _rollout_problems(config: Config) -> Iterator[str]:
    rollout = config.rollout
    for name in rollout.template_kwargs:
        if name in _OWN_ARGUMENTS or not name.isidentifier():
            yield (
                f"rollout.template_kwargs: {name!r} is no argument of a chat template, or one that "
                "tspo sets itself; remove it"
            )
    shortest = rollout.max_prompt_tokens + rollout.max_new_tokens
    if rollout.max_searches:
        shortest += rollout.max_observation_tokens + rollout.max_new_tokens
    if config.model.max_context and config.model.max_context < shortest:
        yield (
            f"model.max_context: {agreeing(config.model.max_context, 'token does', 'tokens do')} "
            "not hold a prompt and "
            f"{'one search with the answer' if rollout.max_searches else 'one turn'}, which take "
            f"{shortest} (rollout.max_prompt_tokens, max_new_tokens, max_observation_tokens); "
            "raise it, lower those, or set it to 0"
        )


def _evaluation_problems(config: Config) -> Iterator[str]:
    for section in ("endpoint", "judge"):
        variable = getattr(config, section).key_env
        if variable and not is_variable(variable):
            yield f"{section}.key_env: {EXPECTED_VARIABLE}"
    held_out = config.data.held_out or config.data.held_out_share
    if held_out and (config.kind != "sft" or config.data.world):
        yield 'data.held_out: for kind = "sft" with data.demonstrations'
    if config.data.held_out and config.data.held_out_share:
        yield "data.held_out: files are named, and data.held_out_share is set; give one of them"
    if config.eval.every and not (config.eval.data or held_out):
        yield "eval.every: evaluations are asked for, but eval.data names no question file"


def _deepspeed_problems(config: Config) -> Iterator[str]:
    if config.deepspeed.gradient_dtype == "float32" and config.deepspeed.zero_stage < 2:
        yield "deepspeed.gradient_dtype: float32 needs deepspeed.zero_stage 2 or 3"
    if config.deepspeed.offload_optimizer and config.deepspeed.zero_stage == 0:
        yield "deepspeed.offload_optimizer: needs deepspeed.zero_stage 1, 2 or 3"


def _retriever_problems(config: Config) -> Iterator[str]:
    searches = config.rollout.max_searches > 0 and (config.kind != "sft" or bool(config.eval.data))
    retriever = config.retriever
    if searches and not (retriever.index or retriever.url or retriever.qdrant.url):
        yield "retriever: give retriever.index or retriever.url, or set rollout.max_searches = 0"
    if retriever.search.given() and not retriever.index:
        yield SEARCH_NEEDS_AN_INDEX
    if retriever.qdrant.url and not retriever.qdrant.collection:
        yield "retriever.qdrant.collection: name the collection to search"
    if retriever.qdrant.url and retriever.qdrant.kind == "dense" and not retriever.qdrant.encoder:
        yield (
            "retriever.qdrant.encoder: dense search needs the encoder that the collection was "
            "made with"
        )


def portable_problems(config: Config) -> Iterator[str]:
    """What cannot be computed with train.portable, in training and in an evaluation."""
    if not config.train.portable:
        return
    key = "train.portable"
    if config.train.threads > 1:
        yield f"{key}: sums of several threads have no fixed order; set train.threads to 1"
    if config.train.compile:
        yield f"{key}: train.compile makes kernels for this processor alone; set it to false"
    if config.model.dtype == "bfloat16":
        yield f"{key}: only float32 has kernels that repeat; set model.dtype to float32"
    if config.rollout.engine == "vllm" and not config.endpoint.url:
        yield f"{key}: vLLM chooses its own kernels; set rollout.engine to transformers"


def _rl_problems(config: Config) -> Iterator[str]:
    rollout = config.rollout
    if config.train.epochs:
        yield f'train.epochs: kind = "{config.kind}" counts train.steps; set that, and epochs to 0'
    if not config.data.train:
        yield f'data.train: kind = "{config.kind}" needs question files to train on'
    if not config.model.path:
        yield f'model.path: kind = "{config.kind}" needs a model to start from'
    if rollout.temperature == 0:
        yield (
            "rollout.temperature: greedy rollouts of a question are all the same; give a "
            "temperature above 0"
        )
    if config.loss.mismatch == "mask" and config.loss.importance_cap < 1:
        yield (
            f"loss.importance_cap: {config.loss.importance_cap:g} would mask every token; set it "
            "above 1"
        )
    if config.loss.old_logprobs == "engine" and config.loss.mismatch in ("truncate", "mask"):
        yield (
            "loss.mismatch: importance weights need the learner's log-probs in the ratio; set "
            'loss.old_logprobs to "learner" or "auto", or loss.mismatch to "none"'
        )
    if rollout.engine == "vllm" and (rollout.top_p < 1 or rollout.top_k > 0):
        yield (
            "rollout.engine: vllm gives log-probs after top_p and top_k, the loss needs those "
            "before; switch both off"
        )
    if rollout.engine == "vllm" and not config.vllm.url and config.vllm.tensor_parallel > 1:
        yield (
            "vllm.tensor_parallel: an engine in a training process has that process's questions "
            "alone and cannot be "
            "divided over several; start servers with `tspo engine --tensor-parallel` and name "
            "them in vllm.url"
        )
    if config.vllm.url and config.vllm.sleep in (1, 2):
        yield "vllm.sleep: only an engine in this process can sleep; remove vllm.url or vllm.sleep"
    if config.vllm.transfer == "nccl":
        yield from _nccl_problems(config)
    if rollout.one_step_off and rollout.dynamic_sampling:
        yield (
            "rollout.one_step_off: dynamic_sampling asks for more rollouts once some are scored; "
            "switch one off"
        )
    if rollout.one_step_off and config.vllm.sleep in (1, 2):
        yield (
            "rollout.one_step_off: the engine samples while the learner works and cannot sleep; "
            "set vllm.sleep to 0"
        )
    if config.lora.rank and config.lora.dropout:
        yield (
            "lora.dropout: the policy that is trained would not be the policy that rolls out; "
            "set it to 0"
        )
    yield from _remedy_problems(config)
    yield from _pool_problems(config)
    if config.tree.grows:
        yield from _tree_problems(config)
    if config.train.updates_per_step > rollout.questions_per_step * rollout.group_size:
        yield (
            "train.updates_per_step: more updates than rollouts in a step (questions_per_step x "
            "group_size)"
        )


def _remedy_problems(config: Config) -> Iterator[str]:
    if config.train.on_warning != "reset_to_best":
        return
    if not (config.eval.every and config.eval.data) or config.checkpoint.best == "none":
        yield (
            "train.on_warning: reset_to_best goes back to the best evaluation; set eval.data and "
            "eval.every, and checkpoint.best to em or f1"
        )
    if config.rollout.one_step_off:
        yield (
            "train.on_warning: reset_to_best cannot take back rollouts that were sampled one step "
            "ahead; switch rollout.one_step_off off, or take lower_lr"
        )


def _pool_problems(config: Config) -> Iterator[str]:
    data, rollout = config.data, config.rollout
    if not data.has_pool:
        return
    key = "data.recycle" if data.recycle else "data.curriculum"
    if config.kind != "rl":
        yield f'{key}: is for kind = "rl"; {config.kind} imitates what is best, whatever its reward'
    if rollout.one_step_off:
        yield (
            f"{key}: rollout.one_step_off draws the next questions before this step's are scored; "
            "switch one off"
        )
    if rollout.dynamic_sampling:
        yield (
            f"{key}: rollout.dynamic_sampling replaces questions without a signal within the step; "
            "switch one off"
        )
    if data.recycle and data.recycle * rollout.questions_per_step < 1:
        yield (
            f"data.recycle: {data.recycle:g} of {counted(rollout.questions_per_step, 'question')} "
            "is less than one; raise it, or rollout.questions_per_step"
        )


def _tree_problems(config: Config) -> Iterator[str]:
    """Rules of rollouts that branch."""
    rollout, tree = config.rollout, config.tree
    if not rollout.max_searches:
        yield (
            "tree.branching: rollouts branch after a search, and rollout.max_searches is 0; raise "
            'it, or set tree.branching to "none"'
        )
    if tree.roots > rollout.group_size:
        yield (
            f"tree.roots: {tree.roots} whole rollouts are more than the budget of "
            f"rollout.group_size = {rollout.group_size}; lower one or raise the other"
        )
    if 0 < tree.max_rollouts < tree.roots:
        yield "tree.max_rollouts: expected tree.roots or more, or 0"


def _credit_problems(config: Config) -> Iterator[str]:
    """Rules of the algorithm."""
    if is_user_code(config.credit.outcome):
        try:
            load_function(config.credit.outcome, "credit.outcome")
        except InvalidInputError as error:
            yield str(error)
    try:
        algorithm = find_algorithm(config.credit.algorithm)
    except InvalidInputError as error:
        yield str(error)
        return
    if config.credit.outcome == "judge" and not (config.judge.url and config.judge.model):
        yield (
            "credit.outcome: judge needs one; set judge.url and judge.model (on an "
            "OpenAI-compatible server), and judge.prompt for a rubric of your own"
        )
    name, kind = algorithm.name, config.kind
    if algorithm.kind != kind:
        names = ", ".join(entry.name for entry in ALGORITHMS.values() if entry.kind == kind)
        yield (
            f'credit.algorithm: {name} trains with kind = "{algorithm.kind}", not "{kind}"; '
            f"change kind, or the algorithm to one of {names}"
        )
    if algorithm.compares and config.rollout.group_size < 2:
        yield f"rollout.group_size: {name} compares the rollouts of a question, so give 2 or more"
    options = algorithm.options_in(config.credit)
    if (
        isinstance(options, GoldLogprobOptions)
        and options.teacher == "reference"
        and not (config.loss.kl > 0 or config.loss.log_kl)
    ):
        yield (
            f"credit.{algorithm.table}.teacher: the reference is the frozen starting policy, and "
            'none is kept; set loss.log_kl to true, or the teacher to "policy"'
        )
    if config.tree.grows and "critic" in algorithm.needs:
        yield (
            f"tree.branching: not for {name}, whose critic would learn the values of shared turns "
            'several times; set it to "none"'
        )
    if config.credit.turn_count_baseline and ("critic" in algorithm.needs or kind != "rl"):
        yield (
            f"credit.turn_count_baseline: not for {name}, whose advantages are not made by "
            "comparing the rollouts of a question; set it to false"
        )
    elif config.credit.turn_count_baseline and config.tree.grows:
        yield (
            "credit.turn_count_baseline: not for rollouts that branch, which would change a shared "
            'turn by several amounts; set it to false, or tree.branching to "none"'
        )
    yield from _batchwise_problems(config, algorithm)


def _batchwise_problems(config: Config, algorithm: Algorithm) -> Iterator[str]:
    """Rules about advantages that depend on the whole batch."""
    if config.loss.kl > 0 and config.loss.kl_in == "reward" and not algorithm.batchwise:
        names = ", ".join(entry.name for entry in ALGORITHMS.values() if entry.batchwise)
        yield (f'loss.kl_in: "reward" is for {names}, not for {algorithm.name}; set it to "loss"')
    if config.data.recycle and algorithm.batchwise:
        yield (
            f"data.recycle: {algorithm.name} has no groups without an advantage; set it to 0, or "
            "take data.curriculum"
        )
    if config.rollout.dynamic_sampling and (algorithm.batchwise or config.kind != "rl"):
        yield (
            f"rollout.dynamic_sampling: {algorithm.name} has no groups without an advantage; set "
            "it to false"
        )


def _nccl_problems(config: Config) -> Iterator[str]:
    if not config.has_vllm_servers:
        yield (
            "vllm.transfer: nccl sends weights to vLLM servers; name them in vllm.url, set "
            'launch.engines, or set it to "auto"'
        )
    if config.lora.rank and config.lora.handover != "merged":
        yield (
            "vllm.transfer: nccl sends whole weights, adapters go as files; set it to "
            '"files", or lora.handover to "merged"'
        )


def _sft_problems(config: Config) -> Iterator[str]:
    if not (config.data.world or config.data.demonstrations):
        yield 'data: kind = "sft" needs data.demonstrations or data.world'
    if config.data.world and config.rollout.exclude_seen:
        yield "rollout.exclude_seen: demonstrations of data.world read passages again; set it false"
    if not (config.data.world or config.model.path):
        yield ("model.path: name the model to start from; only data.world makes a new tiny policy")
    if config.data.has_pool:
        key = "data.recycle" if config.data.recycle else "data.curriculum"
        yield (
            f'{key}: kind = "sft" has no rollouts to measure, and its epochs promise every '
            "demonstration once; remove it"
        )
    if config.train.on_warning != "none":
        yield (
            'train.on_warning: watches rollouts, and kind = "sft" has none; set it to "none" (or '
            "end the run with train.stop_when)"
        )
    if config.train.epochs and not config.data.demonstrations:
        yield "train.epochs: needs data.demonstrations; demonstrations of a world never repeat"
    retriever = config.retriever
    if config.data.world and not (retriever.index or retriever.url or retriever.qdrant.url):
        yield ("retriever.index: demonstrations of a world need an index of its corpus; set it")
    if config.rollout.engine == "vllm":
        yield 'rollout.engine: kind = "sft" evaluates with the transformers engine; remove vllm'
