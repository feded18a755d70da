"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [runs, source, classes, find, list, detail, count] =
    ["run", "source", "class", "find", "list", "detail", "count"].map(byId);
  let shown = [];
  let selected = 0;

  // Everything from a run enters the page as text, never as markup.
  const make = (tag, className = "", ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };
  const tag = (text, className = "") => make("span", `tag ${className}`, text);
  const pieces = (parts) => parts.map((part, index) => (index % 2 ? make("mark", "", part) : part));
  const classTag = (name) => (name ? tag(name, { success: "success", "near-miss": "near-miss" }[name] || "") : null);
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
  const sign = (value) => (value > 0 ? "plus" : value < 0 ? "minus" : "");

  const options = (select, entries) => {
    const before = select.value;
    select.replaceChildren(...entries.map(([value, text]) => Object.assign(make("option", "", text), { value })));
    if (entries.some(([value]) => value === before)) select.value = before;
  };
  const currentRun = () => data.runs[Number(runs.value)];
  const currentSource = () => currentRun().sources[Number(source.value)];
  const classesOf = (group) => [group.class, ...group.trajectories.map((one) => one.class)].filter(Boolean);
  const textOf = (group) =>
    [group.id, group.question, ...group.golds, ...group.trajectories.flatMap((one) =>
      [one.answer, ...one.turns.map((turn) => turn.query)])].filter(Boolean).join("\n").toLowerCase();

  function chooseRun() {
    const label = source.selectedOptions[0] ? source.selectedOptions[0].dataset.label : "";
    options(source, currentRun().sources.map((one, index) => [String(index), `${one.label} (${one.groups.length} of ${one.of})`]));
    currentRun().sources.forEach((one, index) => {
      source.options[index].dataset.label = one.label;
      if (one.label === label) source.value = String(index);
    });
    chooseSource();
  }

  function chooseSource() {
    const groups = currentSource() ? currentSource().groups : [];
    const names = [...new Set(groups.flatMap(classesOf))].sort();
    options(classes, [["", "all"], ...names.map((name) => [name, name])]);
    filter();
  }

  function filter() {
    const words = find.value.trim().toLowerCase();
    const groups = currentSource() ? currentSource().groups : [];
    shown = groups.filter((group) =>
      (!classes.value || classesOf(group).includes(classes.value)) && (!words || textOf(group).includes(words)));
    count.textContent = `${shown.length} shown`;
    list.replaceChildren(...shown.map(entry));
    if (!shown.length) list.append(make("div", "empty", "Nothing here under these filters."));
    select(0, false);
  }

  function entry(group, index) {
    const element = make("div", "entry", group.question, make("div", "tags",
      group.class ? tag(group.class) : classTag(group.trajectories[0] && group.trajectories[0].class)));
    element.id = `entry-${index}`;
    element.setAttribute("role", "option");
    element.addEventListener("click", () => select(index, false));
    return element;
  }

  function select(index, scroll = true) {
    selected = Math.max(0, Math.min(index, shown.length - 1));
    [...list.children].forEach((element, at) => element.setAttribute("aria-selected", String(at === selected)));
    list.setAttribute("aria-activedescendant", shown.length ? `entry-${selected}` : "");
    if (scroll && shown.length) list.children[selected].scrollIntoView({ block: "nearest" });
    detail.replaceChildren(...(shown.length ? group(shown[selected]) : []));
  }

  function group(one) {
    const facts = make("p", "facts", "Gold: ", make("b", "", one.golds.join(" | ")), ` · ${one.id}`);
    if (one.class) facts.append(" · group: ", tag(one.class));
    const open = one.trajectories.findIndex((each) => !classes.value || each.class === classes.value);
    return [make("h3", "", one.question), facts,
      ...one.trajectories.map((each, index) => trajectory(each, index === Math.max(0, open), one.trajectories.length))];
  }

  function trajectory(one, open, of) {
    const correct = one.outcome > 0;
    const strip = make("span", "strip", ...one.turns.map((turn) => (turn.advantage === null ? null
      : Object.assign(tag(signed(turn.advantage), `credit ${sign(turn.advantage)}`), { title: "advantage of this turn" }))));
    const summary = make("summary", "", strip, of > 1 ? `Rollout ${one.sample + 1} ` : "", classTag(one.class),
      one.outcome === null ? null : tag(`outcome ${one.outcome}`, correct ? "success" : ""),
      one.failed ? tag("search failed, not trained on", "minus") : null,
      "Answer: ", make("b", "", one.answer === null || one.answer === undefined ? "none" : one.answer));
    const element = make("details", "trajectory", summary, ...one.turns.map((turn, index) => turnOf(turn, index + 1, one)));
    element.open = open;
    return element;
  }

  function turnOf(turn, number, one) {
    const head = make("div", "turn-head", make("b", "", `Turn ${number}`), tag(turn.kind, turn.kind === "search" || turn.kind === "answer" ? "" : "minus"),
      turn.query ? make("span", "", make("code", "", turn.query)) : null,
      one.first === number ? tag("gold answer first occurs here", "first") : null);
    if (turn.reward !== null || turn.advantage !== null) {
      head.append(make("span", "credit", turn.reward === null ? null : `reward ${turn.reward.toFixed(2)}  `,
        turn.advantage === null ? null : tag(`advantage ${signed(turn.advantage)}`, sign(turn.advantage))));
    }
    const state = turn.advantage > 0 ? "up" : turn.advantage < 0 ? "down" : "";
    const element = make("div", `turn ${state}`, head, make("div", "said", ...pieces(turn.text)));
    if (turn.error) element.append(make("p", "error", `Search failed: ${turn.error}`));
    if (turn.passages.length) element.append(make("ol", "passages", ...turn.passages.map(passage)));
    if (turn.feedback) element.append(make("div", "said", ...pieces(turn.feedback)));
    return element;
  }

  function passage([id, index]) {
    return make("li", "", make("span", "id", id), make("span", "body", ...pieces(data.passages[index])));
  }

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const arrows = document.activeElement === list;
    const move = event.key === "j" || (arrows && event.key === "ArrowDown") ? 1
      : event.key === "k" || (arrows && event.key === "ArrowUp") ? -1 : 0;
    if (!move) return;
    event.preventDefault();
    select(selected + move);
  };

  const kept = data.runs.map((run, index) => [String(index), run.name, run.sources.length]).filter((run) => run[2]);
  if (!kept.length) return;
  options(runs, kept);
  byId("viewer").hidden = false;
  runs.addEventListener("change", chooseRun);
  source.addEventListener("change", chooseSource);
  classes.addEventListener("change", filter);
  find.addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", onKey);
  chooseRun();
})();
