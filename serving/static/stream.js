// The stream that everybody sees.
import { address, ask, byId, colourOf, People, postJson, saveAs, say, Trouble } from "./common.js";
import { meanOf, Timeline } from "./chart.js";

const blank = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const people = new People(byId("people"));
const timeline = new Timeline(byId("timeline"), byId("legend"));
const picture = byId("picture");
const still = byId("still");
const trouble = new Trouble();
let events = null;
let paused = false;
let shown = false; // whether this panel is the one that is seen
let status = null;
let retry = 0;
let drawDue = false;
let known = {}; // model and detector that the selects were last set to by what the server said

const source = () => byId("source").value;
const at = (path) => `${path}?source=${encodeURIComponent(source())}`;

export function showStream(isShown) {
  shown = isShown;
  update();
}

// Watch only while there is something to see: the server captures nothing for nobody.
const isWanted = () => shown && !paused && !document.hidden;

function update() {
  if (isWanted() && !events) open();
  if (!isWanted() && events) close();
}

function open() {
  // The number makes a new request of it, even where the address was open a moment ago.
  picture.src = `${address(at("/api/stream/video"))}&n=${Date.now()}`;
  events = new EventSource(address(at("/api/stream/events")));
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onerror = () => again(events.readyState === EventSource.CLOSED);
}

function close() {
  events?.close();
  events = null;
  clearTimeout(retry);
  picture.src = blank;
  timeline.gap();
}

// Events that end would come again by themselves; the picture would not, nor does it say so where the server ends it in order.
async function again(refused) {
  close();
  showState("no answer", "", true);
  showPeople([], "", "");
  let what = refused ? "The stream is full" : "The connection ended";
  try {
    await ask("/api/stream");
  } catch (error) {
    what = `The server does not answer (${error.message})`;
  }
  if (events || !isWanted()) return;
  trouble.tell(`${what}; trying again in a few seconds.`);
  clearTimeout(retry);
  retry = setTimeout(update, 4000);
}

picture.addEventListener("error", () => {
  if (events) again(true);
});

function take({ result, status: now }) {
  trouble.over();
  status = now;
  showState(now.state, now.message, now.state === "lost");
  byId("fact-fps").textContent = now.fps.toFixed(1);
  byId("fact-latency").textContent = now.latency_ms === null ? "-" : `${Math.round(now.latency_ms)} ms`;
  byId("fact-viewers").textContent = now.viewers;
  for (const name of ["model", "detector"]) {
    if (now[name] !== known[name]) byId(name).value = known[name] = now[name]; // somebody, perhaps another viewer, switched it
  }
  showRecording(now.recording);
  const faces = result?.faces ?? [];
  showPeople(faces, result?.model ?? now.model, now.state === "live" ? "Nobody is seen." : now.message || now.state);
  if (!result) {
    timeline.gap();
    return;
  }
  showPersons(faces);
  if (!faces.length && !timeline.labels.length) return;
  const labels = faces.length ? Object.keys(faces[0].probabilities) : timeline.labels;
  timeline.setLabels(labels, labels.map((label) => colourOf(result.model, label)));
  const chosen = byId("person").value;
  timeline.add(result.time_s, meanOf(chosen ? faces.filter((face) => String(face.id) === chosen) : faces, labels));
  if (!drawDue) {
    drawDue = true;
    requestAnimationFrame(() => {
      drawDue = false;
      timeline.draw();
    });
  }
}

function showState(text, title, isBad) {
  const state = byId("fact-state");
  state.textContent = text;
  state.title = title;
  state.classList.toggle("bad", isBad);
}

function showPeople(faces, model, ifNobody) {
  byId("fact-people").textContent = faces.length;
  byId("nobody").hidden = faces.length > 0;
  byId("nobody").textContent = ifNobody;
  people.show(faces, model);
}

function showPersons(faces) {
  const select = byId("person");
  if (document.activeElement === select) return; // an open list must not change under the hand
  const ids = faces.map((face) => String(face.id));
  if (select.value && !ids.includes(select.value)) ids.push(select.value);
  const known = [...select.options].slice(1).map((option) => option.value);
  if (known.join() === ids.join()) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...ids.map((id) => new Option(`person ${id}`, id)));
  select.value = chosen;
}

function showRecording(recording) {
  const on = Boolean(recording?.active);
  byId("recording-sign").hidden = !on;
  byId("recording-text").textContent = on ? `Recording results, ${recording.rows} rows` : "";
  byId("record").classList.toggle("on", on);
  byId("record").textContent = on ? "Stop recording" : "Record results";
  byId("results").hidden = !recording;
  byId("results").href = address(at("/api/results.csv"));
}

function keepStill() {
  still.width = picture.naturalWidth || 640;
  still.height = picture.naturalHeight || 480;
  still.getContext("2d").drawImage(picture, 0, 0, still.width, still.height);
}

function pause(on) {
  paused = on;
  if (paused) keepStill();
  still.hidden = !paused;
  picture.hidden = paused;
  byId("pause").classList.toggle("on", paused);
  byId("pause").textContent = paused ? "Go on" : "Pause";
  say(paused ? "Paused for you; others still see the stream." : "");
  update();
}

byId("pause").addEventListener("click", () => pause(!paused));

byId("snapshot").addEventListener("click", async () => {
  const name = `${source()}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.jpg`;
  try {
    if (paused) still.toBlob((blob) => saveAs(blob, name), "image/jpeg", 0.9);
    else saveAs(await (await ask(at("/api/stream/snapshot.jpg"))).blob(), name);
    say(`Snapshot saved by your browser as ${name}.`);
  } catch (error) {
    say(error.message, true);
  }
});

byId("record").addEventListener("click", async () => {
  const on = !status?.recording?.active;
  try {
    const now = await postJson("/api/recording", { source: source(), recording: on });
    if (now.source !== source()) return;
    showRecording(now.recording);
    status = now;
    say(on ? "Results are being recorded: numbers, no pictures." : "Recording stopped.");
  } catch (error) {
    say(error.message, true);
  }
});

for (const name of ["model", "detector"]) {
  byId(name).addEventListener("change", async () => {
    const wanted = byId(name).value;
    say(`Switching to ${wanted}...`);
    try {
      const now = await postJson("/api/stream/settings", { source: source(), [name]: wanted });
      say(`Now with ${now[name]}.`); // which somebody else may have chosen meanwhile
    } catch (error) {
      byId(name).value = known[name];
      say(error.message, true);
    }
  });
}

byId("source").addEventListener("change", () => {
  close();
  timeline.clear();
  known = {};
  status = null;
  showState("connecting", "", false);
  showPeople([], "", "");
  byId("person").length = 1;
  showRecording(null);
  pause(false); // what was kept is of another source
});
document.addEventListener("visibilitychange", update);
// A page that the browser keeps for "back" would hold its connections.
addEventListener("pagehide", close);
addEventListener("pageshow", update);
