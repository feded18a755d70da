// The list of items: choose, filter, sort, compare. Only the rows in sight are in the document.

const data = JSON.parse(document.getElementById("index").textContent);
const byId = (id) => document.getElementById(id);
const [sourceA, sourceB, classes, verdict, find, list, detail, count, maskButton, themeButton] =
  ["source-a", "source-b", "class", "verdict", "find", "list", "detail", "count", "mask", "theme"].map(byId);
const ROW = 34;
const NONE = "none";
const cache = new Map();
let rows = [];
let shown = [];
let selected = 0;
let order = { key: "place", down: false };
let masked = false;
let drawing = 0;
let others = new Map();

const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);
const known = (values) => values.filter((value) => value !== null && value !== undefined);

// Groups of the chunk that holds row `place` of a source, unpacked when first needed.
async function group(source, place) {
  const number = source.chunk + Math.floor(place / source.per);
  if (!cache.has(number)) {
    if (cache.size > 40) cache.delete(cache.keys().next().value);
    const bytes = Uint8Array.from(atob(byId(`chunk-${number}`).textContent), (letter) => letter.charCodeAt(0));
    cache.set(number, new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json());
  }
  return (await cache.get(number))[place % source.per];
}

function rowsOf(source) {
  return source.rows.map(([question, name, rollouts], place) => ({
    place, question, rollouts,
    text: data.questions[question][1],
    class: name || (rollouts.length === 1 ? rollouts[0][2] : null),
    em: mean(known(rollouts.map((one) => one[0]))),
    f1: mean(known(rollouts.map((one) => one[1]))),
    searches: mean(rollouts.map((one) => one[3])),
    invalid: rollouts.reduce((sum, one) => sum + one[4], 0),
    tokens: mean(rollouts.map((one) => one[5])),
  }));
}

const words = (row) => {
  if (row.words === undefined) {
    const [id, question, golds] = data.questions[row.question];
    row.words = [id, question, ...golds, ...row.rollouts.flatMap((one) => [one[6], one[7]])].filter(Boolean).join("\n").toLowerCase();
  }
  return row.words;
};

const VERDICTS = {
  right: ["right", (row) => row.em > 0],
  wrong: ["wrong", (row) => row.em === 0],
  invalid: ["with invalid turns", (row) => row.invalid > 0],
  unanswered: ["without an answer", (row) => row.rollouts.some((one) => one[6] === null)],
};
const PAIRED = {
  won: ["A right, B wrong", (row) => row.em > 0 && row.other && row.other.em === 0],
  lost: ["A wrong, B right", (row) => row.em === 0 && row.other && row.other.em > 0],
  differ: ["different answers", (row) => row.other && row.rollouts[0][6] !== row.other.rollouts[0][6]],
};
const COLUMNS = [
  ["place", "#", (row) => String(row.place + 1), "num"],
  ["text", "question", (row) => row.text, "wide"],
  ["class", "class", (row) => classBadge(row.class), ""],
  ["em", "EM", (row) => score(row), "num"],
  ["other", "EM, B", (row) => (row.other ? score(row.other) : "–"), "num paired"],
  ["f1", "F1", (row) => (row.f1 === null ? "" : row.f1.toFixed(2)), "num more"],
  ["searches", "searches", (row) => plain(row.searches), "num more"],
  ["invalid", "invalid", (row) => (row.invalid ? String(row.invalid) : ""), "num more"],
  ["tokens", "tokens", (row) => plain(row.tokens), "num more"],
];
const plain = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(1));
const score = (row) => {
  if (row.em === null) return "";
  const right = row.rollouts.filter((one) => one[0] > 0).length;
  return make("span", row.em > 0 ? "yes" : "no", row.rollouts.length > 1 ? `${right}/${row.rollouts.length}` : plain(row.em));
};
const value = (row, key) => (key === "other" ? (row.other ? row.other.em : null) : row[key]);

const options = (select, entries) => {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, text]) => Object.assign(make("option", "", text), { value })));
  select.value = entries.some(([value]) => value === before) ? before : entries.length ? entries[0][0] : "";
};
// A folder named after its data set says it already.
const sourceName = ({ run, label }) => (run.endsWith(`/${label}`) ? run : `${run}: ${label}`);
const sourceOptions = (select, wanted, first) => {
  const before = select.value;
  select.replaceChildren(...(first ? [first] : []));
  for (const run of new Set(wanted.map((place) => data.sources[place].run))) {
    const own = make("optgroup");
    own.label = run;
    for (const place of wanted.filter((each) => data.sources[each].run === run)) {
      const { rows: kept, of } = data.sources[place];
      const part = kept.length < of ? `${kept.length} of ${of}` : String(of);
      own.append(Object.assign(make("option", "", `${sourceName(data.sources[place])} (${part})`), { value: String(place) }));
    }
    select.append(own);
  }
  if ([...select.options].some((option) => option.value === before)) select.value = before;
};

function chooseA() {
  const source = data.sources[Number(sourceA.value)];
  const questions = new Set(source.rows.map(([question]) => question));
  const comparable = data.sources.map((_, place) => place).filter((place) => place !== Number(sourceA.value)
    && data.sources[place].rows.some(([question]) => questions.has(question)));
  sourceOptions(sourceB, comparable, Object.assign(make("option", "", "nothing"), { value: NONE }));
  rows = rowsOf(source);
  const names = new Set(rows.flatMap((row) => [row.class, ...row.rollouts.map((one) => one[2])]).filter(Boolean));
  options(classes, [["", "all"], ...[...names].sort().map((name) => [name, name])]);
  chooseB();
}

function chooseB() {
  const paired = sourceB.value !== NONE;
  others = new Map();
  if (paired) for (const row of rowsOf(data.sources[Number(sourceB.value)])) if (!others.has(row.question)) others.set(row.question, row);
  for (const row of rows) row.other = others.get(row.question) || null;
  options(verdict, [["", "all"], ...Object.entries(paired ? { ...VERDICTS, ...PAIRED } : VERDICTS).map(([key, [text]]) => [key, text])]);
  list.classList.toggle("compares", paired);
  if (!paired && order.key === "other") order = { key: "place", down: false };
  drawHead();
  filter();
}

function filter() {
  const keep = selected < shown.length ? shown[selected].question : null;
  const wanted = find.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const test = verdict.value ? { ...VERDICTS, ...PAIRED }[verdict.value][1] : () => true;
  shown = rows.filter((row) => test(row)
    && (!classes.value || row.class === classes.value || row.rollouts.some((one) => one[2] === classes.value))
    && wanted.every((word) => words(row).includes(word)));
  const { key, down } = order;
  if (key !== "place" || down) {
    shown.sort((a, b) => {
      const [x, y] = [value(a, key), value(b, key)];
      if (x === y || (x == null && y == null)) return a.place - b.place;
      if (x == null || y == null) return x == null ? 1 : -1;
      return (typeof x === "string" ? x.localeCompare(y) : x - y) * (down ? -1 : 1);
    });
  }
  count.textContent = `${shown.length} of ${rows.length} shown`;
  select(Math.max(0, shown.findIndex((row) => row.question === keep)), true);
}

function drawHead() {
  const head = list.querySelector("thead");
  head.replaceChildren(make("tr", "", ...COLUMNS.map(([key, title, , className]) => {
    const button = Object.assign(make("button", "", title), { type: "button" });
    button.dataset.key = key;
    const cell = make("th", className, button);
    cell.setAttribute("aria-sort", order.key !== key ? "none" : order.down ? "descending" : "ascending");
    return cell;
  })));
}

function drawRows() {
  const body = list.querySelector("tbody");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 8);
  const last = Math.min(shown.length, first + Math.ceil(list.clientHeight / ROW) + 16);
  const space = (number) => {
    const row = make("tr", "space");
    row.style.height = `${number * ROW}px`;
    row.setAttribute("aria-hidden", "true");
    return row;
  };
  body.replaceChildren(...(first ? [space(first)] : []), ...shown.slice(first, last).map((row, at) => drawRow(row, first + at)),
    ...(last < shown.length ? [space(shown.length - last)] : []));
  if (!shown.length) body.append(make("tr", "", Object.assign(make("td", "empty", "Nothing here under these filters."), { colSpan: COLUMNS.length })));
  list.querySelector("table").setAttribute("aria-rowcount", String(shown.length + 1));
  list.setAttribute("aria-activedescendant", shown.length ? `item-${selected}` : "");
}

function drawRow(row, at) {
  const element = make("tr", "item", ...COLUMNS.map(([, , draw, className]) => make("td", className, draw(row))));
  element.id = `item-${at}`;
  element.dataset.at = at;
  element.setAttribute("aria-selected", String(at === selected));
  element.setAttribute("aria-rowindex", String(at + 2));
  return element;
}

function select(at, scroll = true) {
  selected = Math.max(0, Math.min(at, shown.length - 1));
  if (scroll) {
    const head = list.querySelector("thead").offsetHeight;
    const top = selected * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW + head > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW + head - list.clientHeight;
  }
  drawRows();
  drawDetail();
}

async function drawDetail() {
  const mine = ++drawing;
  const row = shown[selected];
  if (!row) {
    detail.replaceChildren();
    return;
  }
  const [id, question, golds] = data.questions[row.question];
  const paired = sourceB.value !== NONE;
  const panes = [await pane(sourceA.value, row, paired ? "A" : "")];
  if (paired) panes.push(row.other ? await pane(sourceB.value, row.other, "B") : make("div", "pane empty", "B has not answered this question."));
  if (mine !== drawing) return;
  detail.replaceChildren(make("h3", "", question),
    make("p", "facts", "gold: ", make("b", "gold", golds.join(" | ")), ` · ${id}`), make("div", paired ? "sides" : "", ...panes));
}

async function pane(place, row, letter) {
  const source = data.sources[Number(place)];
  const found = await group(source, row.place);
  const several = found.rollouts.length > 1;
  const fitting = classes.value ? row.rollouts.findIndex((one) => one[2] === classes.value) : 0;
  return make("div", "pane", make("p", "source", letter ? make("b", "letter", letter) : null, `${sourceName(source)} `,
    several && row.class ? classBadge(row.class) : null),
  ...found.rollouts.map((one, at) => rollout(one, row.rollouts[at],
    { open: at === Math.max(0, fitting), of: found.rollouts.length, mask: masked, kind: source.kind })));
}

function toggleMask() {
  masked = !masked;
  maskButton.setAttribute("aria-pressed", String(masked));
  drawDetail();
}

function nextTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme || (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  themeButton.setAttribute("aria-pressed", String(now !== "dark"));
}

const MOVES = { j: 1, k: -1 };
const LIST_MOVES = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === find) {
    list.focus();
    return;
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  const move = MOVES[event.key] || (document.activeElement === list ? LIST_MOVES[event.key] : undefined);
  if (move) select(move === -Infinity ? 0 : move === Infinity ? shown.length - 1 : selected + move);
  else if (event.key === "/") find.focus();
  else if (event.key === "m") toggleMask();
  else if (event.key === "Enter" && document.activeElement === list) detail.focus();
  else return;
  event.preventDefault();
}

themeButton.hidden = false;
themeButton.addEventListener("click", nextTheme);
const kept = data.sources.map((source, place) => place).filter((place) => data.sources[place].rows.length);
if (kept.length) {
  byId("viewer").hidden = false;
  sourceOptions(sourceA, kept);
  sourceA.addEventListener("change", chooseA);
  sourceB.addEventListener("change", chooseB);
  classes.addEventListener("change", filter);
  verdict.addEventListener("change", filter);
  find.addEventListener("input", filter);
  maskButton.addEventListener("click", toggleMask);
  byId("previous").addEventListener("click", () => select(selected - 1));
  byId("next").addEventListener("click", () => select(selected + 1));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => {
    sourceB.value = NONE;
    order = { key: "place", down: false };
    chooseB();
  }));
  list.addEventListener("scroll", drawRows, { passive: true });
  new ResizeObserver(drawRows).observe(list);
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-key]");
    const item = event.target.closest("tr.item");
    if (button) {
      const { key } = button.dataset;
      order = order.key === key ? { key, down: !order.down } : { key, down: !["place", "text", "class"].includes(key) };
      drawHead();
      list.querySelector(`button[data-key=${key}]`).focus();
      filter();
    } else if (item) select(Number(item.dataset.at), false);
  });
  document.addEventListener("keydown", onKey);
  chooseA();
}
