/* The page: draws the value that render/page.py computes. netlabPage.render(element, data, options) -> {destroy, go, state};
   `h` and `replace` make elements for the page of `netlab serve`, too.

   Law: everything in `data` is text. Elements are made by `h` and filled with text nodes; there is no markup from strings, no eval,
   no request. What is where, what is lit, which words explain it: all that is in the data, this file only shows it. */
(function (global) {
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  first: "M4 3h2v10H4zM14 3v10L7 8z", prev: "M12 3v10L4 8z", next: "M4 3v10l8-5z", last: "M10 3h2v10h-2zM2 3v10l7-5z",
  play: "M4 2v12l10-6z", pause: "M3 2h4v12H3zM9 2h4v12H9z", plus: "M7 3h2v4h4v2H9v4H7V9H3V7h4z", minus: "M3 7h10v2H3z",
  fit: "M2 2h5v2H4v3H2zM9 2h5v5h-2V4H9zM2 9h2v3h3v2H2zM12 9h2v5H9v-2h3z",
};
const VERDICTS = { delivered: "✓", dropped: "✗", rejected: "✗", partial: "~", unknown: "?" };
const TONES = { good: "✓", bad: "✗", warn: "!", nat: "✎" };
const SHORT = { Ethernet: "Eth", IPv4: "IP", IPv6: "IP6", VXLAN: "VXLAN", ICMPV6: "ICMP", IPENCAP: "IPIP" };
const BUTTONS = 44; // pixels above the drawing that its buttons take
const SHOW = [["all", "everything"], ["changes", "what changes the packet"], ["decisions", "rules and policies"], ["wires", "wires"]];
const KEYS = [
  ["→ or ↓ , ← or ↑", "next step, previous step (of those that the filter shows)"], ["Home, End", "first step, last step"], ["Space", "play, pause"],
  ["B, Shift+B", "next branch, previous branch"], ["R", "request or reply"], ["/", "filter the steps"], ["Q", "quiz: guess before you look"],
  ["1 to 5, Enter", "in the quiz: choose an answer, or reveal it"], ["+, -, 0", "zoom the drawing, fit it"], ["T", "light, dark, as the system says"],
  ["?", "this list"],
];

/* An element with attributes, listeners (on...) and children; strings become text nodes. */
function h(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") made.value = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  fill(made, children);
  return made;
}

function fill(element, children) {
  for (const child of children.flat(3)) {
    if (child === null || child === undefined || child === false) continue;
    element.appendChild(typeof child === "object" ? child : document.createTextNode(String(child)));
  }
  return element;
}

function replace(element, ...children) {
  while (element.firstChild) element.removeChild(element.firstChild);
  return fill(element, children);
}

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [k, v] of [["viewBox", "0 0 16 16"], ["width", "16"], ["height", "16"], ["aria-hidden", "true"], ["focusable", "false"]]) svg.setAttribute(k, v);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.appendChild(path);
  return svg;
}

const button = (name, label, action, attributes) =>
  h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: action, ...attributes }, icon(name));

function render(root, data, options) {
  options = options || {};
  const id = "netlab" + Math.random().toString(36).slice(2, 8);
  const state = { branch: 0, way: "request", step: 0, quiz: false, filter: "", show: "all", playing: 0, speed: 1, theme: "auto", zoom: 0 };
  const answered = new Map(); // "branch/way/step" -> the answer that was given, null where it was revealed
  const cleanup = [];
  const reduced = global.matchMedia && global.matchMedia("(prefers-reduced-motion: reduce)");

  const branch = () => data.branches[state.branch];
  const way = () => (state.way === "reply" && branch().reply ? branch().reply : branch().request);
  const events = () => way().events.map((n) => data.events[n]);
  const current = () => events()[state.step];
  const key = (step) => `${state.branch}/${state.way}/${step}`;
  const open = (step) => !state.quiz || answered.has(key(step)) || !events()[step].quiz;
  const hidden = (step) => state.quiz && (step > state.step || !open(step));
  const card = (event) => (event.card === undefined || event.card < 0 ? null : data.cards[event.card]);

  // ------------------------------------------------------------------------------------------------ the frame

  const summary = h("p", { class: "summary" });
  const tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Branches: what chance may decide" });
  const ways = h("div", { class: "ways", role: "group", "aria-label": "Direction" });
  const list = h("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Steps", id: id + "-list" });
  const filter = h("input", { type: "search", placeholder: "Filter steps", "aria-label": "Filter steps by text", autocomplete: "off", spellcheck: "false" });
  const show = h("select", { "aria-label": "Which steps" }, SHOW.map(([v, text]) => h("option", { value: v }, text)));
  const none = h("p", { class: "none", hidden: true }, "No step matches.");
  const canvas = h("div", { class: "canvas" });
  const drawing = h("div", { class: "drawing", role: "img", "aria-describedby": id + "-where" }, canvas);
  const where = h("ol", { class: "where", id: id + "-where", "aria-label": "The way, place by place" });
  const range = h("input", { type: "range", min: "1", "aria-label": "Step", class: "range" });
  const count = h("span", { class: "count" });
  const play = h("button", { type: "button", class: "icon play", "aria-label": "Play", title: "Play (Space)" }, icon("play"));
  const speed = h("select", { "aria-label": "Speed" }, [0.5, 1, 2, 4].map((s) => h("option", { value: s, selected: s === 1 }, `${s}×`)));
  const quiz = h("button", { type: "button", class: "toggle", "aria-pressed": "false", title: "Guess before you look (Q)" }, "Quiz");
  const score = h("span", { class: "score", role: "status" });
  const side = h("div", { class: "side" });
  const live = h("div", { class: "hidden", "aria-live": "polite", role: "status" });
  const theme = h("button", { type: "button", class: "toggle" }, "Theme: auto");
  const help = h("dialog", { class: "help", "aria-label": "Keys" },
    h("h2", null, "Keys"), h("dl", null, KEYS.map(([k, what]) => [h("dt", null, k), h("dd", null, what)])),
    h("p", null, "The address of this page names the step: copy it to link here."),
    h("form", { method: "dialog" }, h("button", { class: "toggle", autofocus: true }, "Close")));

  const panel = (name, ...children) => h("section", { class: "panel " + name.toLowerCase(), "aria-label": name }, ...children);
  const app = h("div", { class: options.keys === "element" ? "netlab embedded" : "netlab", "data-theme": "auto" },
    h("header", null,
      h("div", { class: "head" },
        h("h1", null, data.title, h("span", { class: "question" }, data.question)),
        h("div", { class: "tools" }, ways, theme, h("button", { type: "button", class: "toggle", onclick: () => help.showModal() }, "Keys ?"))),
      summary,
      tabs),
    h("div", { class: "main" },
      panel("Steps",
        h("div", { class: "filters" }, filter, show), none, list),
      panel("Topology",
        drawing,
        h("div", { class: "zoom" },
          button("minus", "Zoom out (-)", () => zoom(1 / 1.25)), button("fit", "Fit (0)", () => zoom(0)), button("plus", "Zoom in (+)", () => zoom(1.25))),
        h("div", { class: "controls" },
          button("first", "First step (Home)", () => go(0)), button("prev", "Previous step (←)", () => move(-1)), play,
          button("next", "Next step (→)", () => move(1)), button("last", "Last step (End)", () => go(events().length - 1)),
          range, count, speed, quiz, score),
        where),
      panel("Packet", side)),
    live, help, footer());

  function footer() {
    const part = (title, texts) => texts && texts.length ? h("details", null, h("summary", null, `${title} (${texts.length})`), h("ul", null, texts.map((t) => h("li", null, t)))) : null;
    const parts = [part("Assumptions", data.assumptions), part("Not modelled", data.notModelled)].filter(Boolean);
    return parts.length ? h("footer", null, parts) : null;
  }

  // ------------------------------------------------------------------------------------------------ head

  function drawHead() {
    const several = data.branches.length > 1;
    replace(tabs, several ? data.branches.map((b, n) => h("button", {
      type: "button", role: "tab", id: `${id}-tab${n}`, "aria-selected": String(n === state.branch), tabindex: n === state.branch ? "0" : "-1",
      "aria-controls": id + "-list", class: "tab " + (state.quiz ? "" : b.verdict), onclick: () => choose(n),
      title: (b.choices || []).join("; ") || null,
    }, h("span", { class: "share" }, b.probability), " ", h("span", null, state.quiz ? `branch ${n + 1}` : `${VERDICTS[b.verdict]} ${b.label}`))) : null);
    const both = [["request", branch().request], ["reply", branch().reply]].filter(([, w]) => w);
    tabs.hidden = !several;
    ways.hidden = both.length < 2;
    replace(ways, both.map(([name, w]) => h("button", {
      type: "button", class: "toggle", "aria-pressed": String(name === state.way), onclick: () => turn(name),
    }, w.title, name === "reply" && !w.arrived && !state.quiz ? " ✗" : "")));
    const b = branch();
    const choices = b.choices && b.choices.length ? ` Chosen by ${b.choices.join("; ")}.` : "";
    replace(summary, state.quiz ? h("span", { class: "verdict" }, "? quiz: the verdict is yours to find") : [
      h("strong", { class: "verdict " + b.verdict }, `${VERDICTS[b.verdict]} ${b.verdict}`), " ",
      h("span", null, b.summary.replace(/^(Delivered|Dropped|Rejected|Unknown)(:?) /, (all, word, colon) => (colon ? "— " : "")) + "."),
      several ? h("span", { class: "more" }, ` This branch: ${b.probability}.${choices} Over all: ${data.summary}.`) : null]);
  }

  // ------------------------------------------------------------------------------------------------ the list

  let rows = [];
  let shown = [];

  function drawList() {
    const all = events();
    rows = [];
    const groups = [];
    let group = null, hop = null;
    all.forEach((event, n) => {
      if (event.where !== hop) {
        hop = event.where;
        const label = `${id}-hop${groups.length}`;
        group = h("div", { role: "group", "aria-labelledby": label, class: "hop" }, h("div", { class: "hopname", id: label }, event.where, h("span", null, " " + event.kind)));
        groups.push(group);
      }
      const row = h("div", { role: "option", id: `${id}-step${n}`, class: "row", onclick: () => go(n) });
      rows.push(row);
      group.appendChild(row);
    });
    replace(list, groups);
    range.max = String(all.length);
    updateRows();
  }

  function matches(event) {
    const c = card(event);
    if (state.show === "changes" && !(c && c.changed && c.changed.length) && event.tone !== "bad" && event.tone !== "good") return false;
    if (state.show === "decisions" && event.decides === undefined && !event.stage.startsWith("policy") && event.tone !== "bad" && event.tone !== "good") return false;
    if (state.show === "wires" && !/^(out|in|sent|encap|decap|delivered)/.test(event.stage)) return false;
    const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
    const text = [event.where, event.stage, event.result, ...(event.rules || []).flatMap((r) => [r.text, r.ref || "", r.where || ""])].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  }

  function updateRows() {
    const all = events();
    shown = [];
    all.forEach((event, n) => {
      const row = rows[n], hide = hidden(n);
      const match = matches(event) && !(hide && state.filter);
      if (match) shown.push(n);
      row.hidden = !match;
      row.className = `row ${hide ? "" : event.tone || ""}${n === state.step ? " now" : ""}${n < state.step ? " past" : ""}`;
      row.setAttribute("aria-selected", String(n === state.step));
      const later = state.quiz && n > state.step;
      replace(row, h("span", { class: "number" }, n + 1),
        h("span", { class: "stage" }, later ? "· · ·" : event.stage),
        hide ? h("span", { class: "result" }, later ? "" : "? guess") : [
          event.tone ? h("span", { class: "mark", "aria-hidden": "true" }, TONES[event.tone]) : null,
          h("span", { class: "result" }, event.result)]);
    });
    for (const group of list.children) group.hidden = ![...group.querySelectorAll(".row")].some((row) => !row.hidden);
    none.hidden = shown.length > 0;
    list.setAttribute("aria-activedescendant", `${id}-step${state.step}`);
    const few = shown.length < all.length ? `, ${shown.length} shown` : "";
    count.textContent = `${state.step + 1} of ${all.length}${few}`;
    range.value = String(state.step + 1);
    range.setAttribute("aria-valuetext", hidden(state.step) ? `step ${state.step + 1}` : `step ${state.step + 1}, ${all[state.step].where}, ${all[state.step].stage}`);
  }

  // ------------------------------------------------------------------------------------------------ the packet

  function drawSide() {
    const event = current(), c = card(event), asked = state.quiz && event.quiz;
    const parts = [h("h2", { class: "stagename" }, h("span", { class: "at" }, event.where), " ", event.stage)];
    if (asked) parts.push(question(event));
    if (!hidden(state.step)) {
      parts.push(h("p", { class: "outcome " + (event.tone || "") }, event.tone ? h("span", { class: "mark", "aria-hidden": "true" }, TONES[event.tone] + " ") : null, event.result));
      if (event.why) parts.push(h("p", { class: "why" }, event.why));
    }
    const who = hidden(state.step) ? [] : decided(event);
    const same = c && c.rows.every((row) => row.change === "same");
    if (same) parts.push(...who); // nothing to see in the packet: who decided comes first
    if (c) parts.push(packet(c, hidden(state.step)));
    if (!same) parts.push(...who);
    replace(side, parts);
    side.scrollTop = 0;
  }

  function question(event) {
    const done = answered.has(key(state.step)), given = answered.get(key(state.step));
    const right = done && given === event.quiz.answer;
    return h("div", { class: "quiz", role: "group", "aria-label": "Question" },
      h("p", { class: "ask" }, event.quiz.ask),
      (event.quiz.choices || []).map((choice, n) => h("button", {
        type: "button", class: "choice" + (done && choice === event.quiz.answer ? " right" : done && choice === given ? " wrong" : ""), disabled: done, onclick: () => answer(choice),
      }, h("span", { class: "number", "aria-hidden": "true" }, n + 1), choice, done && choice === event.quiz.answer ? " ✓" : done && choice === given ? " ✗" : "")),
      done ? h("p", { class: "verdict " + (right ? "delivered" : given === null ? "partial" : "dropped") },
        right ? "✓ Right." : given === null ? "Revealed: " + event.quiz.answer + "." : "✗ Not so: " + event.quiz.answer + ".")
        : h("button", { type: "button", class: "toggle", onclick: () => answer(null) }, "Reveal (Enter)"));
  }

  const hue = (name) => "l-" + name.replace(/^quoted /, "").replace(/[^A-Za-z0-9]/g, "").toLowerCase();

  function packet(c, before) {
    const changed = c.rows.some((row) => row.change !== "same");
    const rowsOf = before ? c.rows.filter((row) => row.change !== "added") : c.rows;
    const grew = c.grew && !before ? ` (${c.grew > 0 ? "+" : "−"}${Math.abs(c.grew)})` : "";
    const size = before ? c.size - c.grew : c.size;
    return h("div", { class: "packet" },
      h("h3", null, before ? "The packet as it comes" : changed ? "The packet: in → out" : "The packet, unchanged", h("span", { class: "size" }, `${size} bytes${grew}`)),
      strip(rowsOf.filter((row) => row.change !== "removed" || before)),
      h("div", { class: "layers" }, rowsOf.map((row) => {
        const change = before ? "same" : row.change;
        return h("div", { class: `layer ${hue(row.name)} ${change}` },
          h("div", { class: "layername" }, h("span", null, row.name),
            change === "added" ? h("span", { class: "change" }, "+ added") : change === "removed" ? h("span", { class: "change" }, "− removed") : null,
            h("span", { class: "bytes" }, row.size ? `${row.size} B` : "")),
          row.fields && row.fields.length ? h("dl", null, row.fields.map((f) => [
            h("dt", null, f.name),
            before || f.old === undefined ? h("dd", null, before && f.old !== undefined ? f.old : f.new)
              : h("dd", { class: "differs" }, h("del", null, f.old), h("span", { class: "arrow" }, " → "), h("ins", null, f.new))])) : null);
      })));
  }

  /* The packet's headers side by side, each as long as its bytes. */
  function strip(rowsOf) {
    return h("div", { class: "strip", "aria-hidden": "true" }, rowsOf.filter((row) => row.size).map((row) => {
      const made = h("span", { class: hue(row.name), title: `${row.name}, ${row.size} bytes` }, SHORT[row.name] || row.name);
      made.style.flexGrow = String(row.size);
      return made;
    }));
  }

  function decided(event) {
    const parts = [];
    const rules = event.rules || [];
    const run = event.decides !== undefined ? rules[event.decides] : null;
    const rule = (r, name) => h("div", { class: "rule" },
      name ? h("h3", null, name) : null,
      r.where ? h("p", { class: "rulewhere" }, r.where, r.effect ? h("span", { class: "effect" }, r.effect) : null) : null,
      h("pre", { tabindex: "0" }, h("code", null, r.text)),
      r.ref ? h("p", { class: "ref" }, "from ", h("code", null, r.ref)) : null);
    if (run) parts.push(rule(run, event.tried ? "The rule that decides" : event.stage === "route" ? "The route" : "What decides"));
    if (rules.length > 1 && !event.tried) parts.push(...rules.slice(0, -1).map((r) => rule(r)));
    if (event.chains && event.chains.length) parts.push(h("h3", null, "The chains on the way"), h("dl", { class: "chains" }, event.chains.map(([n, text]) => [h("dt", null, n), h("dd", null, text)])));
    if (event.tried) parts.push(tried(event.tried, rules));
    if (event.facts && event.facts.length) parts.push(h("h3", null, "Details"), h("dl", { class: "facts" }, event.facts.map(([n, v]) => [h("dt", null, n), h("dd", null, v)])));
    return parts;
  }

  /* Rules that were looked at, made when they are asked for. */
  function tried(t, rules) {
    const body = h("div", { class: "tried" });
    const details = h("details", null, h("summary", null, `The ${t.total === 1 ? "rule" : t.total + " rules"} that ${t.total === 1 ? "was" : "were"} tried`), body);
    details.addEventListener("toggle", () => {
      if (!details.open || body.firstChild) return;
      const matched = rules.slice();
      let chain = null;
      fill(body, t.lines.map((line) => {
        const head = line.chain !== chain ? h("div", { class: "chainname" }, line.chain) : null;
        chain = line.chain;
        if (line.skipped) return [head, h("div", { class: "skipped" }, `${line.skipped} more that do not match`)];
        const r = line.matched ? matched.shift() : null;
        return [head, h("div", { class: "line" + (line.matched ? " matched" : "") },
          h("span", { class: "number" }, line.number), h("span", { class: "hit" }, line.matched ? "✓ matches" : "no match"), h("code", null, line.text),
          r && r.effect ? h("span", { class: "effect" }, r.effect) : null, r && r.ref ? h("span", { class: "ref" }, r.ref) : null)];
      }));
    });
    return details;
  }

  // ------------------------------------------------------------------------------------------------ the way as text

  let places = [];

  function placesOf() {
    const found = [];
    const boxes = new Map(graphOf().boxes.map((box) => [box.id, box]));
    events().forEach((event, n) => {
      const box = boxes.get(event.at);
      if (!box || (found.length && found[found.length - 1].box.id === box.id)) return;
      found.push({ box, step: n });
    });
    return found;
  }

  const graphOf = () => data.graphs[branch().graph || 0];
  const isMachine = (box) => ["port", "bridge", "kernel", "overlay", "physical", "hostpod"].includes(box.kind);

  function drawWhere() {
    places = placesOf();
    let machine = null;
    replace(where, places.map((place, n) => {
      const here = place.box.place, first = here !== machine && isMachine(place.box);
      machine = here;
      return h("li", null, h("button", { type: "button", onclick: () => go(place.step) }, first ? h("b", null, here + " ") : null, place.box.label));
    }));
    updateWhere();
  }

  function updateWhere() {
    let now = 0;
    places.forEach((place, n) => { if (place.step <= state.step) now = n; });
    [...where.children].forEach((item, n) => {
      const place = item.firstChild;
      if (n === now) place.setAttribute("aria-current", "step"); else place.removeAttribute("aria-current");
      item.className = n < now ? "past" : n === now ? "now" : "";
      item.hidden = state.quiz && n > now;
    });
    const at = places[now];
    const event = current(), c = card(event);
    const on = event.on && event.on.length && !hidden(state.step) ? "on the wire out of " : "at ";
    drawing.setAttribute("aria-label", `Topology: the packet${c ? ", " + c.size + " bytes," : ""} is ${on}${at ? at.box.label + (isMachine(at.box) ? " of " + at.box.place : "") : event.where}. The whole way is in the list below.`);
  }

  // ------------------------------------------------------------------------------------------------ the drawing

  let cy = null, drawn = -1, where0 = null;
  const css = (name) => getComputedStyle(app).getPropertyValue(name).trim();

  function sheet() {
    const c = Object.fromEntries(["ink", "soft", "line", "panel", "box", "kernel", "pod", "accent", "accent-soft", "accent-ink", "good", "bad", "machine", "bridge", "overlay", "fabric"].map((n) => [n, css("--" + n)]));
    const font = css("--font");
    const text = { "font-family": font, color: c.ink, "text-valign": "center", "text-halign": "center", "min-zoomed-font-size": 4 };
    const boxes = { pod: c.pod, hostpod: c.pod, port: c.box, bridge: c.bridge, kernel: c.kernel, overlay: c.overlay, physical: c.box, segment: c.fabric, outside: c.pod };
    return [
      { selector: "node", style: { ...text, width: "data(w)", height: "data(h)", shape: "round-rectangle", "corner-radius": 6, label: "data(label)", "font-size": 12, "font-weight": 600, "text-max-width": (n) => n.data("w") - 10, "text-wrap": "ellipsis", "background-color": c.box, "border-width": 1, "border-color": c.line, "text-margin-y": (n) => (n.data("detail") ? -8 : 0), "z-index": 10, "z-index-compare": "manual", "overlay-opacity": 0, events: "yes" } },
      ...Object.entries(boxes).map(([kind, colour]) => ({ selector: `node[kind = "${kind}"]`, style: { "background-color": colour } })),
      { selector: 'node[kind = "machine"]', style: { "background-color": c.machine, "border-color": c.line, "text-valign": "top", "text-margin-y": 22, "font-size": 13, "font-weight": 700, "corner-radius": 12, "z-index": 1, events: "no" } },
      { selector: 'node[kind = "port"]', style: { "font-size": 9.5, "font-weight": 400, "corner-radius": 10, "z-index": 12 } },
      { selector: 'node[kind = "segment"]', style: { "corner-radius": 17 } },
      { selector: 'node[kind = "badge"]', style: { "border-style": "dashed", "background-opacity": 0, color: c.soft, "font-size": 14 } },
      { selector: 'node[kind = "detail"]', style: { "background-opacity": 0, "border-width": 0, "font-size": 10, "font-weight": 400, color: c.soft, "text-margin-y": 8, "z-index": 11, events: "no" } },
      { selector: "node.dim, edge.dim", style: { opacity: 0.8 } },
      { selector: "edge.dim", style: { "line-style": "dashed" } },
      { selector: "edge", style: { width: 1.5, "line-color": c.line, "curve-style": "straight", "source-endpoint": "data(from)", "target-endpoint": "data(to)", "z-index": 5, "z-index-compare": "manual", "overlay-opacity": 0, events: "no", "line-cap": "round" } },
      { selector: "edge.path", style: { "line-color": c.soft, width: 2 } },
      { selector: "node.seen", style: { "border-color": c.accent, "border-width": 1.5 } },
      { selector: "edge.seen", style: { "line-color": c.accent, width: 3 } },
      { selector: "node.lit", style: { "border-color": c.accent, "border-width": 2.5 } },
      { selector: "edge.lit", style: { "line-color": c.accent, width: 5 } },
      { selector: "node.now", style: { "border-color": c.accent, "border-width": 4, "background-color": c["accent-soft"] } },
      { selector: "node.now.bad", style: { "border-color": c.bad, "border-style": "double", "border-width": 6 } },
      { selector: "node.now.good", style: { "border-color": c.good, "border-width": 4 } },
      { selector: 'node[kind = "segmentof"]', style: { "background-color": (n) => css("--" + n.data("hue")) || c.box, "border-width": 1, "border-color": c.panel, "corner-radius": 3, "font-size": 8.5, "font-weight": 700, color: c["accent-ink"], "text-margin-y": 0, "text-wrap": "none", "z-index": 100, events: "no" } },
      { selector: 'node[kind = "size"]', style: { "background-color": c.panel, "background-opacity": 0.92, "border-width": 1, "border-color": c.accent, "font-size": 9.5, "font-weight": 700, "text-margin-y": 0, "text-wrap": "none", "corner-radius": 7, "z-index": 99, events: "no" } },
    ];
  }

  function drawGraph() {
    const number = branch().graph || 0;
    if (cy && drawn === number) return;
    if (cy) cy.destroy();
    drawn = number;
    where0 = null;
    const graph = data.graphs[number];
    const nodes = [], edges = [];
    for (const box of graph.boxes) {
      const classes = box.dim ? "dim" : "";
      nodes.push({ data: { ...box }, position: { x: box.x, y: box.y }, classes });
      if (box.detail) nodes.push({ data: { id: "detail of " + box.id, kind: "detail", label: box.detail, w: box.w, h: box.h }, position: { x: box.x, y: box.y }, classes });
    }
    const at = new Map(graph.boxes.map((box) => [box.id, box]));
    for (const wire of graph.wires) {
      const a = at.get(wire.a), b = at.get(wire.b);
      edges.push({ data: { id: wire.id, source: wire.a, target: wire.b, from: `${wire.x1 - a.x}px ${wire.y1 - a.y}px`, to: `${wire.x2 - b.x}px ${wire.y2 - b.y}px` }, classes: wire.dim ? "dim" : "" });
    }
    cy = global.cytoscape({
      container: canvas, elements: { nodes, edges }, style: sheet(), layout: { name: "preset", fit: false }, autoungrabify: true, autounselectify: true,
      boxSelectionEnabled: false, userZoomingEnabled: false, userPanningEnabled: !narrow(), minZoom: 0.2, maxZoom: 4, pixelRatio: "auto",
    });
    cy.on("tap", "node", (tapped) => {
      const n = events().findIndex((event) => event.at === tapped.target.id());
      if (n >= 0 && !state.quiz) go(n);
    });
  }

  const narrow = () => app.clientWidth < 720;

  /* Zoom so that text is legible; where the whole drawing does not fit then, the packet is kept in view. */
  function frame(animate) {
    if (!cy) return;
    const drawnGraph = graphOf(), w = canvas.clientWidth, hgt = canvas.clientHeight;
    const graph = { width: drawnGraph.width, height: drawnGraph.height + 26 }; // the packet hangs below the lowest box
    if (!w || !hgt) return;
    cy.resize();
    const fit = Math.min((w - 24) / graph.width, (hgt - BUTTONS - 20) / graph.height);
    const wide = Math.min(fit, 2.4);
    const level = state.zoom || Math.max(wide, narrow() ? 0.8 : 0.62);
    const p = spot();
    let x = graph.width / 2, y = graph.height / 2;
    if (graph.width * level > w - 8 && p) x = Math.min(Math.max(p.x, w / 2 / level - 10), graph.width - w / 2 / level + 10);
    if (graph.height * level > hgt - 8 && p) y = Math.min(Math.max(p.y, hgt / 2 / level - 10), graph.height - hgt / 2 / level + 10);
    const pan = { x: w / 2 - x * level, y: (hgt + (graph.height * level > hgt - 8 ? 0 : BUTTONS)) / 2 - y * level };
    cy.stop();
    if (animate && !still()) cy.animate({ zoom: level, pan }, { duration: 250 }); else cy.viewport({ zoom: level, pan });
  }

  const still = () => (reduced && reduced.matches) || options.still;

  /* Where the packet is drawn: on the middle of its wire, else at the lower edge of its box. */
  function spot() {
    const graph = graphOf(), event = current();
    const on = event.on && !hidden(state.step) ? graph.wires.filter((wire) => event.on.includes(wire.id)) : [];
    if (on.length === 1) return { x: (on[0].x1 + on[0].x2) / 2, y: (on[0].y1 + on[0].y2) / 2 };
    if (on.length > 1) {
      const ends = on.map((wire) => (wire.y2 > wire.y1 ? [wire.x2, wire.y2] : [wire.x1, wire.y1]));
      return { x: ends.reduce((s, e) => s + e[0], 0) / ends.length, y: Math.max(...ends.map((e) => e[1])) - 14 };
    }
    const box = graph.boxes.find((b) => b.id === event.at);
    return box ? { x: box.x, y: box.y + box.h / 2 + 2 } : null;
  }

  function updateGraph(animate) {
    const graph = graphOf(), event = current();
    cy.batch(() => {
      cy.elements().removeClass("now lit seen path bad good");
      const all = events(), mark = (ids, name) => { for (const i of ids) cy.getElementById(i).addClass(name); };
      if (!state.quiz) for (const e of all) mark([...(e.lit || []), ...(e.on || [])], "path");
      for (const e of all.slice(0, state.step)) mark([e.at, ...(e.lit || [])], "seen");
      if (!hidden(state.step)) mark([...(event.lit || []), ...(event.on || [])], "lit");
      cy.getElementById(event.at).addClass("now" + (hidden(state.step) ? "" : event.tone === "bad" ? " bad" : event.tone === "good" ? " good" : ""));
    });
    const to = spot(), from = where0 || to;
    cy.remove('node[kind = "segmentof"], node[kind = "size"]');
    where0 = to;
    const c = card(event);
    if (!to || !c) return frame(animate);
    const parts = c.rows.filter((row) => row.size && row.change !== (hidden(state.step) ? "added" : "removed"));
    const widths = parts.map((row) => Math.max((SHORT[row.name] || row.name).length * 6 + 6, row.size * 0.7));
    const total = widths.reduce((a, b) => a + b, 0);
    const size = hidden(state.step) ? c.size - c.grew : c.size;
    const text = `${size} B` + (c.grew > 0 && !hidden(state.step) ? ` (+${c.grew})` : c.grew < 0 && !hidden(state.step) ? ` (−${-c.grew})` : "");
    let x = Math.min(Math.max(to.x, total / 2), Math.max(total / 2, graph.width - total / 2)) - total / 2;
    const left = x, dx = from.x - to.x, dy = from.y - to.y;
    const made = parts.map((row, n) => {
      const w = widths[n];
      const node = { data: { id: `packet ${n}`, kind: "segmentof", label: SHORT[row.name] || row.name, w, h: 17, hue: hue(row.name), detail: "" }, position: { x: x + w / 2, y: to.y } };
      x += w;
      return node;
    });
    const wide = text.length * 5.6 + 12;
    made.push({ data: { id: "packet size", kind: "size", label: text, w: wide, h: 15, detail: "" }, position: { x: left + total / 2, y: to.y + 17 } });
    const added = cy.add(made);
    if (animate && !still() && (dx || dy)) {
      added.forEach((node) => {
        const end = { ...node.position() };
        node.position({ x: end.x + dx, y: end.y + dy });
        node.animate({ position: end }, { duration: 260 / Math.max(1, state.speed / 2), easing: "ease-in-out" });
      });
    }
    frame(animate);
  }

  function zoom(factor) {
    if (!factor) state.zoom = 0;
    else state.zoom = Math.min(4, Math.max(0.25, (cy ? cy.zoom() : 1) * factor));
    frame(true);
  }

  // ------------------------------------------------------------------------------------------------ going

  function go(step, quiet) {
    const all = events();
    state.step = Math.min(Math.max(0, step), all.length - 1);
    const started = global.performance ? performance.now() : 0;
    updateRows();
    drawSide();
    updateWhere();
    updateGraph(true);
    const row = rows[state.step];
    if (row && !row.hidden) {
      const outer = list.getBoundingClientRect(), inner = row.getBoundingClientRect();
      if (inner.top < outer.top + 40 || inner.bottom > outer.bottom - 10) list.scrollTop += inner.top - outer.top - list.clientHeight / 3;
    }
    if (!quiet) say();
    remember();
    api.lastStepMs = global.performance ? performance.now() - started : 0;
    if (options.onStep) options.onStep({ branch: state.branch, way: state.way, step: state.step });
  }

  function say() {
    const event = current();
    const place = `Step ${state.step + 1} of ${events().length}, ${event.where}: ${event.stage}. `;
    if (hidden(state.step)) live.textContent = place + event.quiz.ask + " " + (event.quiz.choices || []).map((c, n) => `${n + 1}: ${c}.`).join(" ");
    else {
      const c = card(event);
      const changed = c && c.changed && c.changed.length ? " Changed: " + c.changed.join(", ") + "." : "";
      live.textContent = place + event.result + "." + (event.why ? " " + event.why : "") + changed;
    }
  }

  function move(by) {
    if (by > 0 && hidden(state.step)) return answer(null);
    const next = by > 0 ? shown.find((n) => n > state.step) : shown.filter((n) => n < state.step).pop();
    if (next === undefined) stop(); else go(next);
    return undefined;
  }

  function choose(n) {
    state.branch = (n + data.branches.length) % data.branches.length;
    if (state.way === "reply" && !branch().reply) state.way = "request";
    whole(Math.min(state.step, events().length - 1));
  }

  function turn(name) {
    if (name === state.way || (name === "reply" && !branch().reply)) return;
    state.way = name;
    whole(0);
  }

  function whole(step) {
    drawHead();
    state.step = Math.min(step, events().length - 1);
    drawGraph();
    drawList();
    drawWhere();
    go(state.step);
  }

  function answer(choice) {
    const event = current();
    if (!state.quiz || !event.quiz || answered.has(key(state.step))) return;
    answered.set(key(state.step), choice);
    const given = [...answered].filter(([, a]) => a !== null);
    const right = given.filter(([k, a]) => { const [b, w, s] = k.split("/"); return data.events[data.branches[b][w].events[s]].quiz.answer === a; });
    score.textContent = given.length ? `${right.length} of ${given.length} right` : "";
    go(state.step, true);
    live.textContent = (choice === null ? "" : choice === event.quiz.answer ? "Right. " : "Not so. ") + "It is: " + event.quiz.answer + ". " + event.result + ". " + (event.why || "");
  }

  function start() {
    if (state.playing) return stop();
    if (state.step >= (shown[shown.length - 1] || 0)) go(shown[0] || 0);
    replace(play, icon("pause"));
    play.setAttribute("aria-label", "Pause");
    const tick = () => {
      if (hidden(state.step)) return stop();
      const before = state.step;
      move(1);
      if (state.step === before && !hidden(state.step)) return stop();
      state.playing = setTimeout(tick, 1600 / state.speed);
      return undefined;
    };
    state.playing = setTimeout(tick, 700 / state.speed);
    return undefined;
  }

  function stop() {
    clearTimeout(state.playing);
    state.playing = 0;
    replace(play, icon("play"));
    play.setAttribute("aria-label", "Play");
  }

  function toggleQuiz() {
    state.quiz = !state.quiz;
    quiz.setAttribute("aria-pressed", String(state.quiz));
    if (!state.quiz) { answered.clear(); score.textContent = ""; }
    drawHead();
    drawWhere();
    go(state.step);
  }

  function nextTheme() {
    state.theme = { auto: "light", light: "dark", dark: "auto" }[state.theme];
    app.setAttribute("data-theme", state.theme);
    if (options.hash) document.documentElement.setAttribute("data-theme", state.theme);
    theme.textContent = "Theme: " + state.theme;
    repaint();
  }

  function repaint() {
    if (cy) cy.style(sheet());
  }

  // ------------------------------------------------------------------------------------------------ the address

  const hashOf = () => `#branch=${state.branch + 1}&way=${state.way}&step=${state.step + 1}${state.quiz ? "&quiz=1" : ""}`;

  function remember() {
    if (!options.hash || global.location.hash === hashOf()) return;
    try { global.history.replaceState(null, "", hashOf()); } catch (error) { global.location.replace(hashOf()); }
  }

  function recall() {
    const asked = new URLSearchParams(global.location.hash.slice(1));
    const number = (name) => { const n = parseInt(asked.get(name), 10); return Number.isFinite(n) ? n - 1 : 0; };
    state.branch = Math.min(Math.max(0, number("branch")), data.branches.length - 1);
    state.way = asked.get("way") === "reply" && branch().reply ? "reply" : "request";
    state.quiz = asked.get("quiz") === "1";
    quiz.setAttribute("aria-pressed", String(state.quiz));
    return Math.max(0, number("step"));
  }

  // ------------------------------------------------------------------------------------------------ listening

  function onKey(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const target = event.target, tag = target.tagName;
    if (tag === "INPUT" && target.type === "search") {
      if (event.key === "Escape") { filter.value = ""; onFilter(); list.focus(); event.preventDefault(); }
      if (event.key === "Enter") { list.focus(); event.preventDefault(); }
      return;
    }
    if (tag === "SELECT" || tag === "TEXTAREA") return;
    if ((event.key === " " || event.key === "Enter") && (tag === "BUTTON" || tag === "SUMMARY")) return;
    if (tag === "INPUT" && target.type === "range" && (/^Arrow|^Home|^End|^Page/.test(event.key))) return;
    if (target.getAttribute && target.getAttribute("role") === "tab" && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      choose(state.branch + (event.key === "ArrowRight" ? 1 : -1));
      const tab = document.getElementById(`${id}-tab${state.branch}`);
      if (tab) tab.focus();
      event.preventDefault();
      return;
    }
    const actions = {
      ArrowRight: () => move(1), ArrowDown: () => move(1), ArrowLeft: () => move(-1), ArrowUp: () => move(-1), Home: () => go(0), End: () => go(events().length - 1),
      " ": start, b: () => choose(state.branch + 1), B: () => choose(state.branch - 1), r: () => turn(state.way === "reply" ? "request" : "reply"), q: toggleQuiz, t: nextTheme,
      "/": () => { filter.focus(); filter.select(); }, "?": () => help.showModal(), "+": () => zoom(1.25), "-": () => zoom(1 / 1.25), 0: () => zoom(0),
      Enter: () => { if (hidden(state.step)) answer(null); },
    };
    if (state.quiz && /^[1-5]$/.test(event.key)) {
      const choice = current().quiz && (current().quiz.choices || [])[Number(event.key) - 1];
      if (choice !== undefined) answer(choice);
      event.preventDefault();
    } else if (Object.prototype.hasOwnProperty.call(actions, event.key)) {
      if (event.key !== "Enter") event.preventDefault();
      actions[event.key]();
    }
  }

  function onFilter() {
    state.filter = filter.value;
    state.show = show.value;
    updateRows();
  }

  function listen(target, name, action) {
    target.addEventListener(name, action);
    cleanup.push(() => target.removeEventListener(name, action));
  }

  filter.addEventListener("input", onFilter);
  show.addEventListener("change", onFilter);
  range.addEventListener("input", () => { if (state.quiz) range.value = String(state.step + 1); else go(Number(range.value) - 1); });
  play.addEventListener("click", start);
  speed.addEventListener("change", () => { state.speed = Number(speed.value); });
  quiz.addEventListener("click", toggleQuiz);
  theme.addEventListener("click", nextTheme);
  listen(options.keys === "document" ? document : app, "keydown", onKey);
  if (options.hash) listen(global, "hashchange", () => { if (global.location.hash !== hashOf()) whole(recall()); });
  if (global.matchMedia) listen(global.matchMedia("(prefers-color-scheme: dark)"), "change", repaint);
  const watcher = global.ResizeObserver ? new ResizeObserver(() => frame(false)) : null;

  const api = {
    state, lastStepMs: 0, go, choose, turn,
    destroy() {
      stop();
      cleanup.forEach((undo) => undo());
      if (watcher) watcher.disconnect();
      if (cy) cy.destroy();
      if (app.parentNode) app.parentNode.removeChild(app);
    },
  };

  replace(root, app);
  const first = options.hash ? recall() : 0;
  if (data.branches.length) whole(first);
  if (watcher) watcher.observe(canvas);
  return api;
}

const shared = { h, replace, current: null, render: (root, data, options) => (shared.current = render(root, data, options)) };
global.netlabPage = shared;
})(typeof globalThis !== "undefined" ? globalThis : this);
