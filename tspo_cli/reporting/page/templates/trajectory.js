// Drawing of one rollout. Everything from a run enters the page as text, never as markup.

const make = (tag, className = "", ...children) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};
const badge = (text, className = "") => make("span", `tag ${className}`, text);
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
const sign = (value) => (value > 0 ? "plus" : value < 0 ? "minus" : "");
const CLASS_STYLE = { success: "success", "near-miss": "near-miss", miss: "miss", "all-correct": "success", mixed: "mixed" };
const classBadge = (name) => (name ? badge(name, CLASS_STYLE[name] || (name.includes("near-miss") ? "near-miss" : "miss")) : null);
const outcomeBadge = (value) => (value === null || value === undefined ? null
  : badge(value > 0 ? (value === 1 ? "EM 1" : `outcome ${value}`) : "EM 0", value > 0 ? "success" : "miss"));

const TAG = /(<\/?(?:think|search|information|answer|refine|tool_call|tool_response)>)/;

// `parts` are in turn plain and gold. Tags colour what stands between them, over the borders of the parts.
function spoken(parts, start = "") {
  let inside = start;
  const out = [];
  parts.forEach((part, index) => {
    if (index % 2) {
      out.push(make("mark", inside && `in-${inside}`, part));
      return;
    }
    part.split(TAG).forEach((piece, at) => {
      if (!piece) return;
      if (at % 2 === 0) {
        out.push(inside ? make("span", `in-${inside}`, piece) : piece);
        return;
      }
      const name = piece.replace(/[</>]/g, "");
      const closing = piece[1] === "/";
      out.push(make("span", `tagname in-${name}`, piece));
      inside = closing ? "" : name;
    });
  });
  return out;
}

function rollout(one, facts, options) {
  const [outcome, , name, , , , answer] = facts;
  const credits = one.turns.map((turn, at) => (turn.advantage === null ? null
    : Object.assign(badge(signed(turn.advantage), `credit ${sign(turn.advantage)}`), { title: `advantage of turn ${at + 1}` })));
  const strip = credits.some(Boolean) ? make("span", "strip", ...credits) : null;
  const summary = make("summary", "", strip, options.of > 1 ? make("b", "", `Rollout ${(one.sample || 0) + 1} `) : "",
    one.branch ? badge(`branch of rollout ${one.branch[0] + 1} after turn ${one.branch[1]}`) : null,
    outcomeBadge(outcome), classBadge(name), one.failed ? badge("search failed, not trained on", "minus") : null,
    make("span", "answer", "answer: ", make("b", "", answer === null ? "none" : answer)));
  const body = options.mask ? maskView(one, options.kind) : one.turns.map((turn, at) => turnView(turn, at + 1, one));
  const element = make("details", "trajectory", summary, ...body);
  element.open = options.open;
  return element;
}

function turnView(turn, number, one) {
  const odd = turn.kind !== "search" && turn.kind !== "answer";
  const head = make("div", "turn-head", make("b", "", `Turn ${number}`), badge(turn.kind, odd ? "minus" : `kind-${turn.kind}`),
    one.branch && number <= one.branch[1] ? badge("shared") : null,
    turn.query ? make("code", "query", turn.query) : null,
    one.first === number ? badge("gold answer first occurs here", "first") : null);
  if (turn.reward !== null || turn.advantage !== null) {
    head.append(make("span", "credit", turn.reward === null ? null : badge(`reward ${turn.reward.toFixed(2)}`),
      turn.advantage === null ? null : badge(`advantage ${signed(turn.advantage)}`, sign(turn.advantage))));
  }
  const state = turn.advantage > 0 ? "up" : turn.advantage < 0 ? "down" : "";
  const element = make("div", `turn ${state}`, head);
  if (turn.text.length > 1 || turn.text[0]) element.append(make("div", "said", ...spoken(turn.text)));
  if (turn.error) element.append(make("p", "error", `Search failed: ${turn.error}`));
  if (turn.passages.length) element.append(make("ol", "passages", ...turn.passages.map(passage)));
  else if (turn.feedback.length > 1 || turn.feedback[0].trim()) element.append(make("div", "said feedback", ...spoken(turn.feedback)));
  return element;
}

// `hidden` is what the observation limit cut off: the model never saw it.
function passage([id, score, parts, hidden]) {
  const body = make("span", "body", ...spoken(parts));
  if (hidden) body.append(Object.assign(make("span", "cut", ...spoken(hidden)), { title: "cut off by the observation limit: the model was not shown this" }));
  return make("li", "", make("span", "id", score === null ? id : `${id} · ${score.toFixed(2)}`), body);
}

// Without the line ends around a text: for reading only.
const trimmed = (parts) => parts.map((part, at) => {
  const left = at === 0 ? part.trimStart() : part;
  return at === parts.length - 1 ? left.trimEnd() : left;
});

// What the loss sees: sampled tokens count (mask 1), the prompt and all feedback do not (mask 0).
function maskView(one, kind) {
  const segments = [{ name: "prompt", tokens: one.prompt || 0, text: null, trained: false }];
  one.turns.forEach((turn, at) => {
    segments.push({ name: `turn ${at + 1}`, tokens: turn.tokens || 0, text: turn.text, trained: !one.failed && turn.tokens > 0, turn });
    if (turn.masked || turn.feedback[0] || turn.feedback.length > 1) {
      segments.push({ name: `feedback ${at + 1}`, tokens: turn.masked || 0, text: turn.feedback, trained: false });
    }
  });
  const count = (wanted) => segments.filter((one) => one.trained === wanted).reduce((sum, one) => sum + one.tokens, 0);
  const style = (one) => `seg ${one.trained ? `trained ${sign(one.turn.advantage)}` : "masked"}`;
  const title = (one) => `${one.name}: ${one.tokens} ${one.tokens === 1 ? "token" : "tokens"}, mask ${one.trained ? 1 : 0}`
    + (one.trained && one.turn.advantage !== null ? `, advantage ${signed(one.turn.advantage)}` : "");
  const bar = make("div", "tokens", ...segments.filter((one) => one.tokens).map((one) => {
    const element = Object.assign(make("span", style(one)), { title: title(one) });
    element.style.flexGrow = one.tokens;
    return element;
  }));
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `tokens with mask 1: ${count(true)}, with mask 0: ${count(false)}`);
  const note = one.failed ? "A search failed: nothing of this rollout enters the loss. "
    : kind === "items" ? "An evaluation trains nothing; this is the mask that training would use. " : "";
  const text = make("div", "stream", ...segments.map((one) => make("div", style(one),
    make("span", "count", `${one.tokens} × ${one.trained ? 1 : 0}`), ...(one.text === null ? ["the prompt"] : spoken(trimmed(one.text))))));
  return [make("div", "mask", make("p", "caption", note, make("b", "", String(count(true))), " sampled tokens with mask 1, ",
    make("b", "", String(count(false))), " tokens of prompt and feedback with mask 0."), bar, text)];
}
