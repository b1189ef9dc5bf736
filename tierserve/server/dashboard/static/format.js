// Numbers for people, each with its unit.

const whole = new Intl.NumberFormat("en");

export const count = (value) => whole.format(value);

export const share = (part, all) => (all ? `${((100 * part) / all).toFixed(1)} %` : "–");

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 0.9995) return `${Math.round(value * 1000)} ms`;
  return value < 100 ? `${value.toPrecision(3)} s` : `${Math.round(value)} s`;
}

export const rate = (value) => (value < 10 ? value.toFixed(1) : whole.format(Math.round(value)));

// In the money of the configured price, which has no name.
export const money = (value) => new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value);

export const clock = (epoch_s) => new Date(epoch_s * 1000).toLocaleTimeString("en-GB");

const DOUBTS = {
  low: "confidence too low",
  unstated: "no confidence stated",
  unreadable: "not of the form asked for",
  empty: "empty answer",
  context: "prompt too long for the small tier",
  failure: "the small tier failed",
};

const CAUSES = {
  model: "named as model",
  header: "named in the header",
  key: "the key's only tier",
  score: "score",
  assessed: "score, with the assessor's",
  unassessed: "score, assessor too late",
  cache: "score, known before",
  follow_up: "short follow-up",
  conversation: "conversation sent up before",
  load: "near the threshold, and a queue",
  unscored: "scoring failed",
  context: "prompt too long for the small tier",
  failover: "the chosen tier could not answer",
  escalation: "the small tier's answer was doubted",
  budget: "doubted, and the budget was spent",
};

export const doubt = (name) => DOUBTS[name] ?? name;

export const cause = (name) => CAUSES[name] ?? name;
