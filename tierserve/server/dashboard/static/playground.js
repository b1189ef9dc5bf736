// A prompt's way through the node, as it goes: what the router says, who answers, whether that stands; and beside it
// what the other tier says. All but the nearest prompts comes from the API that every caller has.

import { headers } from "./access.js";
import { by, element, write } from "./build.js";
import { events, refusal } from "./events.js";
import { cause, seconds } from "./format.js";

const JSON_TYPE = { "content-type": "application/json" };

export function begin() {
  const playground = new Playground();
  by("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    playground.run(by("prompt").value, by("compare").checked);
  });
  by("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("ask").requestSubmit();
  });
  by("stop").addEventListener("click", () => playground.stop());
  return playground;
}

class Playground {
  #node = null;
  #running = null;

  // The latest figures: the tiers' names and the thresholds.
  know(figures) {
    this.#node = figures;
  }

  stop() {
    this.#running?.abort();
  }

  async run(prompt, compare) {
    this.stop();
    const running = (this.#running = new AbortController());
    const asked = { messages: [{ role: "user", content: prompt }] };
    const session = { ...JSON_TYPE, "x-session-id": `playground-${unique()}` };
    const routed = new Answer("routed", this.#node.tiers.large.name);
    const other = new Answer("other", this.#node.tiers.large.name);
    this.#begin(compare);
    const known = this.#nearest(prompt, running.signal);
    known.catch(() => {}); // said below, if nothing else went wrong before
    try {
      const tier = await this.#route(asked, session, running.signal);
      const spoke = await routed.ask("auto", asked, session, running.signal, (told) => this.#judged(told, tier));
      const beside = compare ? other.ask(this.#other(spoke.tier), asked, unattached(session), running.signal) : null;
      await Promise.all([spoke.end, beside?.then((told) => told.end), known]);
      this.#say(spoke.escalated ? `Done: escalated to ${spoke.tier}` : `Done: ${spoke.tier} answered`);
    } catch (error) {
      this.#say(running.signal.aborted ? "Stopped" : `Not answered: ${error.message}`);
    } finally {
      for (const answer of [routed, other]) answer.rest();
      if (this.#running === running) by("stop").disabled = true;
    }
  }

  #begin(compare) {
    by("result").hidden = false;
    by("other").hidden = !compare;
    by("stop").disabled = false;
    by("nearest").replaceChildren();
    by("track-score").hidden = true;
    write("scale-text", "");
    this.#say("Scoring the prompt");
  }

  async #route(asked, session, signal) {
    const response = await post("v1/route", { model: "auto", ...asked }, session, signal);
    const { tier, score, threshold, cause: name } = await response.json();
    by("track-small").style.width = `${threshold * 10}%`;
    by("track-score").hidden = score === null;
    if (score === null) write("scale-text", `No score: ${cause(name)}, so ${tier}`);
    else {
      by("track-score").style.left = `${score * 10}%`;
      const relation = score <= threshold ? "up to" : "above";
      write("scale-text", `Score ${score.toFixed(2)} of 10, ${relation} the threshold of ${threshold.toFixed(2)} (${cause(name)}): ${tier}`);
    }
    const held = tier === this.#node.tiers.small.name && this.#node.confidence_threshold !== null;
    this.#say(held ? `${tier} is asked; its answer is held until it is judged` : `${tier} is asked`);
    return tier;
  }

  #judged(told, chosen) {
    if (told.escalated) this.#say(`${chosen} was not sure enough: escalated to ${told.tier}`);
    else if (told.confidence !== null) this.#say(`${told.tier} is sure enough: its answer is sent`);
    else this.#say(`${told.tier} answers`);
  }

  async #nearest(prompt, signal) {
    const response = await post("dashboard/nearest", { prompt }, JSON_TYPE, signal);
    const { nearest } = await response.json();
    const rows = nearest.map((each) => {
      const kind = each.hard ? "hard" : "simple";
      return element("li", {}, element("span", { kind, text: kind }), element("span", { kind: "muted", text: each.cosine.toFixed(2) }), element("span", { kind: "prompt", text: each.prompt }));
    });
    by("nearest").replaceChildren(...(rows.length ? rows : [element("li", {}, element("span", { kind: "none muted", text: "This node's scorer keeps no examples." }))]));
  }

  #other(name) {
    const { small, large } = this.#node.tiers;
    return name === small.name ? large.name : small.name;
  }

  #say(words) {
    write("progress", words);
  }
}

class Answer {
  #box;
  #large;

  // `large`: the large tier's name.
  constructor(id, large) {
    this.#box = by(id);
    this.#large = large;
    delete this.#box.dataset.role;
    this.#part(".facts").replaceChildren();
    this.#part(".text").textContent = "";
    this.#part(".times").textContent = "";
  }

  #part(selector) {
    return this.#box.querySelector(selector);
  }

  // Comes back once somebody speaks; `end` is a promise of the rest.
  async ask(model, asked, more, signal, heard = () => {}) {
    const started = performance.now();
    this.#part(".text").dataset.state = "busy";
    const body = { model, ...asked, temperature: 0, stream: true, stream_options: { include_usage: true } };
    const response = await post("v1/chat/completions", body, more, signal).catch((error) => {
      this.#part(".text").textContent = signal.aborted ? "" : error.message;
      throw error;
    });
    const told = read(response.headers);
    this.#tell(told, model === "auto");
    heard(told);
    return { ...told, end: this.#listen(response, started, told) };
  }

  #tell(told, routed) {
    this.#box.dataset.role = told.tier === this.#large ? "large" : "small";
    const facts = [[told.tier]];
    if (routed) {
      if (told.score !== null) facts.push([`score ${told.score.toFixed(2)}`]);
      facts.push([`cause ${told.cause}`]);
      if (told.confidence !== null) facts.push([`confidence ${told.confidence.toFixed(3)}`]);
      facts.push(told.escalated ? ["escalated", "up"] : ["not escalated"]);
    } else facts.push(["asked by name, not judged"]);
    this.#part(".facts").replaceChildren(...facts.map(([text, kind]) => element("li", { text, kind })));
  }

  async #listen(response, started, told) {
    const first = (performance.now() - started) / 1000;
    let tokens = null;
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      tokens = event.usage?.completion_tokens ?? tokens;
      this.#part(".text").append(event.choices?.[0]?.delta?.content ?? "");
    }
    this.rest();
    const total = (performance.now() - started) / 1000;
    const much = tokens === null ? "" : `, ${tokens} tokens`;
    this.#part(".times").textContent = `${told.tier}: first token after ${seconds(first)}, all after ${seconds(total)}${much}`;
  }

  rest() {
    this.#part(".text").dataset.state = "";
  }
}

function read(headers) {
  const number = (name) => (headers.get(name) === "none" ? null : Number(headers.get(name)));
  const tier = headers.get("x-tierserve-tier");
  return {
    tier,
    score: number("x-tierserve-score"),
    cause: headers.get("x-tierserve-cause"),
    confidence: number("x-tierserve-confidence"),
    escalated: headers.get("x-tierserve-escalated") === "true",
  };
}

async function post(path, body, more, signal) {
  const response = await fetch(path, { method: "POST", headers: headers(more), body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error(await refusal(response));
  return response;
}

// Of the answer beside it: it is no turn of the same conversation.
const unattached = (session) => ({ ...session, "x-session-id": `${session["x-session-id"]}-other` });

// crypto.randomUUID is there over HTTPS and on the loopback alone.
const unique = () => [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
