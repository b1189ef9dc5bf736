// The figures and tables. Charts have a file of their own.

import { by, element, width, write } from "./build.js";
import { cause, clock, count, doubt, money, rate, seconds, share } from "./format.js";

const ROLES = ["small", "large"];
const RECENT_S = 10;
const seen = {};

export function show(figures) {
  const all = figures.answered.small + figures.answered.large;
  const requests = sum(Object.values(figures.statuses));
  by("empty").hidden = requests > 0;
  traffic(figures, requests);
  split(figures, all);
  escalations(figures);
  savings(figures.totals);
  when("latency", [figures.latency, names(figures)], () => latency(figures));
  when("doubts", [figures.escalated, figures.stood], () => doubts(figures));
  when("causes", figures.causes, () => causes(figures));
  when("tiers", figures.tiers, () => tiers(figures));
  when("drift", figures.drift, () => drift(figures.drift));
  when("decisions", figures.decisions, () => decisions(figures.decisions));
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

const names = (figures) => ROLES.map((role) => figures.tiers[role].name);

// Draws only what changed since it was drawn.
function when(part, data, draw) {
  const now = JSON.stringify(data);
  if (seen[part] === now) return;
  seen[part] = now;
  draw();
}

function traffic(figures, requests) {
  let recent = 0;
  const end = figures.now - (figures.now % figures.slot_s); // the slot that is filling does not count
  for (const [start, small, large] of figures.slots.values())
    if (start >= end - RECENT_S && start < end) recent += (small + large) * figures.slot_s;
  const { ok, cancelled, ...failed } = figures.statuses;
  const failures = sum(Object.values(failed));
  write("rate", rate(recent / RECENT_S));
  write(
    "traffic",
    `${count(requests)} in 5 min, ${count(figures.totals.requests)} since the start` +
      (failures ? `; ${count(failures)} failed` : "") + (cancelled ? `; ${count(cancelled)} hung up` : ""),
  );
}

function split(figures, all) {
  const { small, large } = figures.answered;
  const [first, second] = names(figures);
  write("small-share", share(small, all));
  width(by("split-small"), all ? small / all : 0);
  width(by("split-large"), all ? large / all : 0);
  write("split", `${first} ${count(small)}, ${second} ${count(large)} in 5 min`);
}

function escalations(figures) {
  const up = sum(Object.values(figures.escalated));
  const off = figures.confidence_threshold === null;
  write("escalated", off ? "off" : share(up, figures.judged));
  write("escalated-unit", off || !figures.judged ? "" : "of small answers");
  const stood = figures.stood ? `; ${count(figures.stood)} doubted, yet sent` : "";
  write(
    "judged",
    off ? "escalation: off" : `${count(up)} of ${count(figures.judged)} judged in 5 min; threshold ${figures.confidence_threshold}${stood}`,
  );
}

function savings({ requests, unpriced, spent, all_large }) {
  if (requests === unpriced) {
    write("saved", "–");
    write("saved-unit", "");
    write("spent", "Set cost.price_per_host_hour. Measured rates are known after a thousand tokens of each tier.");
    return;
  }
  write("saved", share(all_large - spent, all_large));
  write("saved-unit", "of all-large");
  write("spent", `${money(all_large - spent)} saved: ${money(spent)} spent, ${money(all_large)} by the large tier alone` + (unpriced ? `; ${count(unpriced)} without a cost` : ""));
}

const NAMED = [
  ["first_byte", "first token"],
  ["total", "whole answer"],
];

function latency(figures) {
  const rows = NAMED.flatMap(([measure, words]) =>
    ROLES.map((role) => {
      const known = figures.latency[measure][role];
      const head = element("th", { scope: "row" }, dot(role), `${figures.tiers[role].name} `, element("span", { kind: "muted", text: words }));
      return element("tr", {}, head, ...["p50", "p95", "p99"].map((name) => element("td", { text: seconds(known?.[name]) })));
    }),
  );
  by("latency").tBodies[0].replaceChildren(...rows);
}

const dot = (role) => element("i", { kind: `dot ${role}`, "aria-hidden": "true" });

function bars(id, entries, none) {
  const most = Math.max(...entries.map(([, value]) => value), 1);
  const rows = entries.map(([words, value]) => {
    const fill = element("i");
    width(fill, value / most);
    return element("li", {}, element("span", { text: words }), element("span", { text: count(value) }), element("div", { kind: "rail", "aria-hidden": "true" }, fill));
  });
  by(id).replaceChildren(...(rows.length ? rows : [element("li", { kind: "none", text: none })]));
}

const largest = (counts, words) =>
  Object.entries(counts).filter(([, value]) => value).sort((one, two) => two[1] - one[1]).map(([name, value]) => [words(name), value]);

function doubts(figures) {
  const entries = largest(figures.escalated, doubt);
  if (figures.stood) entries.push(["doubted, yet sent: the budget was spent", figures.stood]);
  bars("doubts", entries, "None in the last 5 min.");
}

function causes(figures) {
  bars("causes", largest(figures.causes, cause), "No decisions in the last 5 min.");
}

const STATES = { ready: ["good", "ready"], loading: ["load", "loading"], failed: ["bad", "failed"], stopped: ["wait", "stopped"] };

function tiers(figures) {
  by("tiers").replaceChildren(
    ...ROLES.map((role) => {
      const tier = figures.tiers[role];
      const [state, words] = STATES[tier.state] ?? ["wait", tier.state];
      const top = element("div", { kind: "top" }, dot(role), element("span", { kind: "name", text: tier.name }), element("span", { kind: "sub", text: role }), element("span", { kind: "pill", "data-state": state, text: words }));
      const busy = tier.state === "loading" && tier.waiting_for ? [element("p", { kind: "sub", text: `Waiting for ${tier.waiting_for}` })] : [];
      return element("div", { kind: "tier" }, top, ...busy, element("dl", {}, pair("At work", count(tier.running)), pair("Waiting", count(tier.waiting)), cache(tier, role)));
    }),
  );
}

const pair = (term, value, ...more) => element("div", {}, element("dt", { text: term }), element("dd", { text: value }), ...more);

function cache(tier, role) {
  if (tier.kv_used === null) return pair("KV cache", "not told");
  const fill = element("i", { kind: role });
  width(fill, tier.kv_used);
  return pair("KV cache", share(tier.kv_used, 1), element("div", { kind: "meter", "aria-hidden": "true" }, fill));
}

function drift(state) {
  if (!state) {
    by("drift").replaceChildren(element("p", { text: "No comparisons yet." }), element("p", { kind: "sub", text: "Shadow comparisons and the decision log are what drift is measured on." }));
    return;
  }
  const head = element("p", { kind: state.alarm ? "bad" : "good", text: state.summary });
  by("drift").replaceChildren(head, ...(state.details ?? []).map((text) => element("p", { kind: "sub", text })));
}

function decisions(latest) {
  const rows = latest.map((each) => {
    const why = each.escalated && each.doubt ? `${each.cause}: ${doubt(each.doubt)}` : each.cause;
    const ended = element("td", { text: each.status, kind: each.status === "ok" ? "muted" : "bad" });
    const tier = element("td", {}, dot(each.role), each.tier ?? "none");
    const figures = [each.score?.toFixed(2) ?? "–", each.confidence?.toFixed(3) ?? "–", seconds(each.first_byte_s), seconds(each.total_s), count(each.tokens)];
    return element("tr", {}, element("td", { text: clock(each.at) }), tier, element("td", { text: why, title: cause(each.cause) }), ...figures.map((text) => element("td", { text })), ended);
  });
  const none = element("tr", {}, element("td", { text: "None yet.", colspan: "9", kind: "muted" }));
  by("decisions").tBodies[0].replaceChildren(...(rows.length ? rows : [none]));
}
