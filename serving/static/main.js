// The tabs, by mouse and by arrow keys.
import { byId, loadModels, sayIn } from "./common.js";
import { showStream } from "./stream.js";
import { stopWebcam } from "./webcam.js";
import "./upload.js";

const names = ["stream", "webcam", "upload"];

function open(name, focus = false) {
  for (const each of names) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === name));
    tab.tabIndex = each === name ? 0 : -1;
    byId(`panel-${each}`).hidden = each !== name;
  }
  if (focus) byId(`tab-${name}`).focus();
  showStream(name === "stream");
  if (name !== "webcam") stopWebcam();
  history.replaceState(null, "", name === "stream" ? location.pathname : `#${name}`);
}

names.forEach((name, index) => {
  byId(`tab-${name}`).addEventListener("click", () => open(name));
  byId(`tab-${name}`).addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) open(names[(index + step + names.length) % names.length], true);
    if (event.key === "Home") open(names[0], true);
    if (event.key === "End") open(names.at(-1), true);
  });
});

// Links within the page, such as the one that skips to the content, are none of this.
const named = (hash) => (hash ? names.find((name) => hash === `#${name}`) : names[0]);
addEventListener("hashchange", () => {
  if (named(location.hash)) open(named(location.hash));
});

const first = named(location.hash) ?? names[0];
try {
  await loadModels(); // for the labels' colours
} catch (error) {
  sayIn(first)(error.message, true);
}
open(first);
