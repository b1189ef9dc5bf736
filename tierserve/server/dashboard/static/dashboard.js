// The page's life: the key, the theme, the feed; everything else draws what it is given.

import * as access from "./access.js";
import { by, write } from "./build.js";
import { Charts } from "./charts.js";
import { watch } from "./feed.js";
import { show } from "./live.js";
import { begin } from "./playground.js";

const THEMES = ["system", "light", "dark"];
const charts = new Charts();
const playground = begin();
let figures = null;
let watching = null;

function theme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("tierserve-theme", name);
  by("theme").textContent = `Theme: ${name}`;
  if (figures) charts.draw(figures, true);
}

function link(state, words) {
  by("link").dataset.state = state;
  write("link", words);
}

function enter(problem = "") {
  watching?.abort();
  by("main").hidden = true;
  by("gate").hidden = false;
  by("forget").hidden = true;
  by("gate-error").textContent = problem;
  link("wait", "Waiting for a key");
  by("key").focus();
}

function open() {
  by("gate").hidden = true;
  by("forget").hidden = !access.key();
  watching?.abort();
  watching = new AbortController();
  watch({
    signal: watching.signal,
    link,
    refused(problem) {
      access.forget();
      enter(problem);
    },
    figures(latest) {
      const first = by("main").hidden;
      by("main").hidden = false;
      figures = latest;
      show(latest);
      playground.know(latest);
      charts.draw(latest, first);
    },
  });
}

by("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  access.keep(by("key").value.trim());
  by("key").value = "";
  open();
});
by("forget").addEventListener("click", () => {
  access.forget();
  enter();
});
by("theme").addEventListener("click", () => {
  const now = localStorage.getItem("tierserve-theme") ?? "system";
  theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures && charts.draw(figures, true));

theme(localStorage.getItem("tierserve-theme") ?? "system");
const bearer = access.wantsKey ? ' \\\n     -H "authorization: Bearer $KEY"' : "";
by("curl").textContent =
  `curl ${new URL("v1/chat/completions", document.baseURI)} -H 'content-type: application/json'${bearer} \\\n` +
  `     -d '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'`;
if (access.wantsKey && !access.key()) enter();
else open();
