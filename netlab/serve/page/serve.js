/* The frame around the page of a trace: ask, see the matrix, edit policies. Talks to /api of its own server alone.

   Law: what the server answers is text, and becomes text nodes. Everything that differs from the served cluster is in `setting`
   and goes along with every question; the server keeps nothing. */
(function () {
"use strict";

const { h, replace } = netlabPage;
const setting = { proxyMode: null, cni: null, changes: "", without: [] };
const edits = new Map(); // title of a policy -> its edited text
let cluster = null, shown = null, asked = 0;

const current = () => ({ ...(setting.proxyMode ? { proxyMode: setting.proxyMode } : {}), ...(setting.cni ? { cni: setting.cni } : {}),
  ...(setting.changes ? { changes: setting.changes } : {}), ...(setting.without.length ? { without: setting.without } : {}) });

async function ask(path, body, accept) {
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers: { "content-type": "application/json", ...(accept ? { accept } : {}) }, body: JSON.stringify(body) });
  } catch (error) {
    throw { what: "the server does not answer", hint: "is `netlab serve` still running?" };
  }
  if (accept && answer.ok) return answer;
  const data = await answer.json();
  if (data.error) throw data.error;
  return data;
}

// ------------------------------------------------------------------------------------------------ the frame

const names = h("datalist", { id: "names" });
const targets = h("datalist", { id: "targets" });
const source = h("input", { list: "names", required: true, autocomplete: "off", spellcheck: "false", placeholder: "pod, node/NAME, internet, address" });
const destination = h("input", { list: "targets", required: true, autocomplete: "off", spellcheck: "false", placeholder: "svc/NAME, pod:PORT, address:PORT" });
const protocol = h("select", null, [["", "as the port says"], ["tcp", "TCP"], ["udp", "UDP"], ["sctp", "SCTP"], ["icmp", "ICMP"]].map(([v, t]) => h("option", { value: v }, t)));
const mode = h("select", { "aria-label": "kube-proxy" });
const cni = h("select", { "aria-label": "CNI" });
const problem = h("div", { class: "error", role: "alert", hidden: true });
const edited = h("span", { class: "edited", role: "status" });
const view = h("div", { class: "view" });
const trace = h("div", { class: "trace" });
const tabs = ["Trace", "Matrix", "Policies"].map((name) => h("button", { type: "button", class: "toggle", "aria-pressed": "false", onclick: () => go(name) }, name));
const links = h("span", { class: "links" });
const form = h("form", { onsubmit: (event) => { event.preventDefault(); go("Trace"); runTrace(); } },
  h("label", { class: "wide" }, "From", source, names), h("label", { class: "wide" }, "To", destination, targets), h("label", null, "Protocol", protocol),
  h("label", null, "kube-proxy", mode), h("label", null, "CNI", cni), h("button", { class: "go" }, "Trace"));
const app = h("div", { class: "netlab serve", "data-theme": "auto" }, form, h("nav", { "aria-label": "Views" }, tabs, edited, links), problem, view);

function fail(error) {
  problem.hidden = !error;
  replace(problem);
  if (!error) return;
  problem.appendChild(document.createTextNode(`${error.where ? error.where + ": " : ""}${error.what || String(error)}${error.hint ? " (" + error.hint + ")" : ""}`));
}

let at = "";
function go(name) {
  at = name;
  tabs.forEach((tab) => tab.setAttribute("aria-pressed", String(tab.textContent === name)));
  trace.hidden = name !== "Trace";
  if (name === "Trace") replace(view);
  if (name === "Matrix") runMatrix();
  if (name === "Policies") drawPolicies();
}

async function loadCluster() {
  cluster = await ask("/api/cluster", current());
  const pods = cluster.pods.map((p) => [p.endpoint, `${p.node} ${p.addresses.join(" ")}`]);
  replace(names, [...pods, ...cluster.nodes.map((n) => [`node/${n.name}`, n.addresses.join(" ")]), ["internet", "outside"]].map(([v, t]) => h("option", { value: v }, t)));
  const ports = cluster.pods.flatMap((p) => p.ports.map((port) => [`${p.endpoint}:${port.split("/")[0]}`, port]));
  replace(targets, [...cluster.services.flatMap((s) => s.endpoints.map((e) => [e, `${s.type} ${s.addresses.join(" ")}`])), ...ports].map(([v, t]) => h("option", { value: v }, t)));
  for (const [select, all, own] of [[mode, cluster.proxyModes, cluster.proxyMode], [cni, cluster.cnis, cluster.cni]])
    replace(select, all.map((v) => h("option", { value: v, selected: v === own }, v)));
  document.title = `netlab: ${cluster.pods.length} pods on ${cluster.nodes.length} nodes`;
}

// ------------------------------------------------------------------------------------------------ a trace

async function runTrace() {
  const mine = ++asked;
  fail(null);
  const query = { source: source.value.trim(), destination: destination.value.trim(), ...(protocol.value ? { protocol: protocol.value } : {}), ...current() };
  trace.setAttribute("aria-busy", "true");
  try {
    const answer = await ask("/api/trace", query);
    if (mine !== asked) return;
    if (shown) shown.destroy();
    shown = netlabPage.render(trace, answer.page, { keys: "document" });
    const plain = new URLSearchParams(Object.entries(query).filter(([, v]) => typeof v === "string"));
    replace(links, query.changes || query.without ? null : ["json", "svg", "html", "pcapng"].map((form) => h("a", { href: `/api/trace.${form}?${plain}`, download: `trace.${form}` }, ` ${form} `)));
  } catch (error) {
    if (mine === asked) fail(error);
  }
  trace.removeAttribute("aria-busy");
}

// ------------------------------------------------------------------------------------------------ the matrix

const WORDS = { yes: "✓ yes", no: "✗ no", some: "~ some", "?": "? unknown", "-": "-" };

async function runMatrix() {
  const mine = ++asked;
  fail(null);
  const bar = h("progress", { max: "1", value: "0", "aria-label": "answers" });
  const count = h("p", { role: "status" }, "asking ...");
  replace(view, count, bar);
  try {
    const answer = await ask("/api/reach", { by: "workloads", ...current() }, "application/x-ndjson");
    const reader = answer.body.getReader(), decoder = new TextDecoder();
    let text = "", found = null;
    for (;;) {
      const { done, value } = await reader.read();
      if (mine !== asked) { reader.cancel(); return; }
      text += decoder.decode(value || new Uint8Array(), { stream: !done });
      let end;
      while ((end = text.indexOf("\n")) >= 0) {
        const line = JSON.parse(text.slice(0, end));
        text = text.slice(end + 1);
        if (line.error) throw line.error;
        if (line.matrix) found = line.matrix;
        else { bar.max = line.total; bar.value = line.done; count.textContent = `${line.done} of ${line.total} answers`; }
      }
      if (done) break;
    }
    if (found) drawMatrix(found);
  } catch (error) {
    if (mine === asked) { replace(view); fail(error); }
  }
}

function drawMatrix(found) {
  const columns = found.destinations.map((c) => `${c.name}:${c.port}${c.protocol === "TCP" ? "" : "/" + c.protocol}`);
  const width = columns.length;
  const rows = found.sources.map((name, n) => h("tr", null, h("th", { scope: "row" }, name), found.cells.slice(n * width, n * width + width).map((cell, m) => {
    const kind = cell.answer === "?" ? "unknown" : cell.answer;
    return h("td", null, h("button", { type: "button", class: kind, title: `${name} → ${columns[m]}: ${cell.reason || cell.answer}`, onclick: () => open(cell, found.destinations[m]) }, WORDS[cell.answer] || cell.answer));
  })));
  replace(view, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Who reaches whom" },
    h("table", null, h("thead", null, h("tr", null, h("th", null, "from \\ to"), columns.map((c) => h("th", { scope: "col" }, h("span", null, c))))), h("tbody", null, rows))));
}

/* The trace of a cell: of a pair that differs, where there is one. */
function open(cell, column) {
  const outcome = (cell.outcomes || []).find((o) => o.verdict !== "delivered");
  source.value = outcome ? outcome.sender : cell.source;
  destination.value = outcome ? outcome.target : `${column.name}:${column.port}`;
  protocol.value = column.protocol.toLowerCase();
  go("Trace");
  runTrace();
}

// ------------------------------------------------------------------------------------------------ policies

const NEW = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: new, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress: []
`;

function drawPolicies() {
  fail(null);
  const area = h("textarea", { "aria-label": "Policy as YAML", spellcheck: "false" });
  let title = "";
  const show = (name, text) => { title = name; area.value = edits.has(name) ? edits.get(name) : text; };
  const button = (name, text) => h("li", null, h("button", { type: "button", onclick: () => show(name, text) }, (edits.has(name) ? "✎ " : "") + name));
  const list = h("ul", null, button("new policy", NEW), cluster.policies.map((p) => button(`${p.kind} ${p.key}`, p.yaml)));
  const named = () => cluster.policies.find((p) => `${p.kind} ${p.key}` === title);
  replace(view, h("div", { class: "policies" }, list, h("div", null, area, h("div", { class: "actions" },
    h("button", { type: "button", class: "go", onclick: () => { edits.set(title, area.value); apply(); } }, "Apply"),
    h("button", { type: "button", onclick: () => { const p = named(); if (p) { setting.without.push(p.without); edits.delete(title); apply(); } } }, "Take it out"),
    h("button", { type: "button", onclick: () => { edits.clear(); setting.without = []; apply(); } }, "Discard all edits")))));
  show("new policy", NEW);
}

async function apply() {
  const before = { changes: setting.changes, without: setting.without.slice() };
  setting.changes = [...edits.values()].join("\n---\n");
  try {
    await loadCluster();
    fail(null);
    const n = edits.size + setting.without.length;
    edited.textContent = n ? `✎ ${n} edited` : "";
    mode.value = setting.proxyMode || cluster.proxyMode;
    cni.value = setting.cni || cluster.cni;
    go(source.value && destination.value ? "Trace" : "Matrix");
    if (at === "Trace") runTrace();
  } catch (error) {
    Object.assign(setting, before);
    fail(error);
  }
}

for (const [select, name] of [[mode, "proxyMode"], [cni, "cni"]])
  select.addEventListener("change", () => { setting[name] = select.value; apply(); });

document.getElementById("serve").append(app, trace);
const wished = new URLSearchParams(location.search);
loadCluster().then(() => {
  const pods = cluster.pods, service = cluster.services.find((s) => s.endpoints.length && s.type !== "ExternalName");
  const hosts = new Set(cluster.nodes.flatMap((n) => n.addresses));
  const own = pods.filter((p) => !p.addresses.some((a) => hosts.has(a)));
  source.value = wished.get("source") || (own[0] || pods[0] || { endpoint: "" }).endpoint;
  destination.value = wished.get("destination") || (service ? service.endpoints[0] : "");
  go("Trace");
  if (source.value && destination.value) runTrace();
}, fail);
})();
