// The node's figures, once a second, for as long as somebody looks. When the node goes away it is asked until it is back.

import { headers } from "./access.js";
import { events, refusal } from "./events.js";

const SILENT_MS = 6000;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

// link(state, words); refused(words): the key will not do; figures(latest), with the slots of the whole window.
export async function watch({ signal, link, refused, figures }) {
  let tries = 0;
  while (!signal.aborted) {
    let broken = true;
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop, { once: true });
    try {
      let silence = setTimeout(stop, SILENT_MS);
      const response = await fetch("dashboard/feed", { headers: headers(), signal: attempt.signal, cache: "no-store" });
      if (response.status === 401 || response.status === 403) {
        clearTimeout(silence);
        return refused(await refusal(response));
      }
      if (!response.ok) throw new Error(await refusal(response));
      const slots = new Map();
      for await (const data of events(response)) {
        clearTimeout(silence);
        silence = setTimeout(stop, SILENT_MS);
        tries = 0;
        if (!signal.aborted) take(JSON.parse(data), slots, link, figures);
      }
      clearTimeout(silence);
      broken = false; // the node ends a feed now and then, to see the key again
    } catch (error) {
      if (signal.aborted) return;
      console.info(`the feed broke off: ${error.message}`);
    } finally {
      signal.removeEventListener("abort", stop);
    }
    if (signal.aborted) return;
    const wait = RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)];
    if (broken) link("bad", "The node is away: reconnecting");
    await new Promise((done) => setTimeout(done, wait));
  }
}

function take(latest, slots, link, figures) {
  for (const slot of latest.slots) slots.set(slot[0], slot);
  for (const start of slots.keys()) if (start < latest.now - latest.window_s) slots.delete(start);
  latest.slots = slots;
  const states = Object.values(latest.tiers).map((tier) => tier.state);
  if (states.every((state) => state === "ready")) link("good", "Live");
  else link(states.includes("failed") ? "bad" : "load", states.includes("ready") ? "Live, degraded" : "Loading");
  figures(latest);
}
