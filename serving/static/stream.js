// The stream that everybody sees.
import { address, ask, byId, colourOf, isOutdated, noAnswer, People, postJson, saveAs, sayIn, Trouble } from "./common.js";
import { meanOf, Timeline } from "./chart.js";

const blank = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const begun = "Results are being recorded: numbers, no pictures.";
const say = sayIn("stream");
const people = new People(byId("people"));
const timeline = new Timeline(byId("timeline"), byId("legend"));
const picture = byId("picture");
const still = byId("still");
const trouble = new Trouble("stream");
let events = null;
let paused = false;
let shown = false; // whether this panel is the one that is seen
let status = null;
let retry = 0;
let glance = 0;
let drawDue = false;
let unsure = true; // whether the server may be another than the one that made this page, which is long ago where another panel came first
let known = {}; // model and detector that the selects were last set to by what the server said

const source = () => byId("source").value;
const at = (path) => `${path}?source=${encodeURIComponent(source())}`;

export function showStream(isShown) {
  shown = isShown;
  update();
}

// Watch only while there is something to see: the server captures nothing for nobody.
const isSeen = () => shown && !document.hidden;
const isWanted = () => isSeen() && !paused;

function update() {
  if (isWanted() && !events) open();
  if (!isWanted() && events) close();
  glanceAtRecording();
}

// A pause ends the events, but who is in the picture is to see that a recording began. To ask this way is not to watch.
async function glanceAtRecording() {
  clearTimeout(glance);
  if (!paused || !isSeen()) return;
  const before = status;
  try {
    const { sources } = await (await ask("/api/stream")).json();
    if (paused && status === before) {
      status = sources.find((each) => each.source === source());
      showRecording(status?.recording);
    }
  } catch {
    // what is wrong is told when the stream is to go on
  }
  clearTimeout(glance); // of another that was asked meanwhile
  glance = setTimeout(glanceAtRecording, 2500);
}

function open() {
  // The number makes a new request of it, even where the address was open a moment ago.
  picture.src = `${address(at("/api/stream/video"))}&n=${Date.now()}`;
  events = new EventSource(address(at("/api/stream/events")));
  events.onmessage = (event) => take(JSON.parse(event.data));
  events.onerror = () => again("events");
}

function close() {
  unsure = true; // from here on nothing is heard of it
  events?.close();
  events = null;
  clearTimeout(retry);
  picture.src = blank;
  timeline.gap();
}

// Events that end would come again by themselves; the picture would not, nor does it say so where the server ends it in order.
// Neither tells why it was refused, so the same is asked once more in a way that does. kind: "events" or "video".
async function again(kind) {
  const path = at(`/api/stream/${kind}`);
  close();
  showState("no answer", "", true);
  showFacts(null);
  showPeople([], "", "");
  let what = "The connection ended";
  try {
    const outdated = await isOutdated();
    if (events || !isWanted()) return;
    if (outdated) {
      location.reload();
      return;
    }
    await (await ask(`${path}&limit=1`)).body.cancel();
  } catch (error) {
    what = noAnswer(error);
  }
  if (events || !isWanted()) return;
  trouble.tell(`${what}; trying again in a few seconds.`);
  clearTimeout(retry);
  retry = setTimeout(update, 4000);
}

picture.addEventListener("error", () => {
  if (events) again("video");
});

function take({ result, status: now }) {
  trouble.over();
  if (unsure) {
    unsure = false;
    isOutdated().then(
      (outdated) => {
        unsure = outdated;
        if (outdated && isWanted()) location.reload(); // something else that is being looked at would be lost
      },
      () => (unsure = true),
    );
  }
  status = now;
  showState(now.state, now.message, now.state === "lost");
  showFacts(now);
  showButtons();
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
  timeline.add(result.time_s, meanOf(faces, labels), new Map(faces.map((face) => [String(face.id), meanOf([face], labels)])));
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

function showFacts(now) {
  byId("fact-fps").textContent = now ? now.fps.toFixed(1) : "-";
  byId("fact-latency").textContent = now && now.latency_ms !== null ? `${Math.round(now.latency_ms)} ms` : "-";
  byId("fact-viewers").textContent = now ? now.viewers : "-";
  const note = now?.state === "live" ? now.message : ""; // such as that some of a file can't be read
  byId("fact-note").textContent = note;
  byId("fact-note").hidden = !note;
}

// Before the first picture there is none to keep.
const isBlank = () => !paused && picture.naturalWidth <= 1;

function showButtons() {
  // They are not `disabled`: who goes on by the keyboard would lose the focus until the next picture.
  for (const name of ["pause", "snapshot"]) byId(name).setAttribute("aria-disabled", String(isBlank()));
}

function showPeople(faces, model, ifNobody) {
  byId("fact-people").textContent = faces.length;
  byId("nobody").hidden = faces.length > 0;
  byId("nobody").textContent = ifNobody;
  people.show(faces, model);
}

function showPersons(faces) {
  const select = byId("person");
  // An open list must not change under the hand. Where a browser does not tell, one that has the focus may be open.
  if (select.matches(CSS.supports("selector(:open)") ? ":open" : ":focus")) return;
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
  const why = on ? "" : recording?.message; // it may have ended by itself
  const note = why ? `The recording ended: ${why}. Get CSV has its ${recording.rows} rows.` : "";
  if (byId("recording-note").textContent !== note) byId("recording-note").textContent = note; // else it would be read out each time
  byId("recording-note").hidden = !note;
  if (note && byId("stream-message").textContent === begun) say("");
  byId("results").hidden = !recording;
  byId("results").href = address(at("/api/results.csv"));
}

function keepStill() {
  still.width = picture.naturalWidth;
  still.height = picture.naturalHeight;
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
  showButtons();
}

picture.addEventListener("load", showButtons);
byId("person").addEventListener("change", () => timeline.choose(byId("person").value));

byId("pause").addEventListener("click", () => {
  if (!isBlank()) pause(!paused);
});

byId("snapshot").addEventListener("click", async () => {
  if (isBlank()) return;
  const name = `${source()}-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.jpg`;
  try {
    if (paused) still.toBlob((blob) => saveAs(blob, name), "image/jpeg", 0.9);
    else saveAs(await (await ask(at("/api/stream/snapshot.jpg"))).blob(), name);
    say(`Snapshot saved by your browser as ${name}.`);
  } catch (error) {
    say(error.message, true);
  }
});

// What a new recording would take the place of, as far as nobody has fetched it.
async function unfetchedRows(key) {
  const { sources } = await (await ask("/api/stream")).json(); // what the page knows may be of another source, or seconds old
  const last = sources.find((each) => each.source === key)?.recording;
  return last && !last.active ? last.rows - last.fetched_rows : 0;
}

byId("record").addEventListener("click", async () => {
  const on = !status?.recording?.active;
  const key = source();
  try {
    const rows = on ? await unfetchedRows(key) : 0;
    const lost = `The last recording has ${rows} rows that nobody has fetched (Get CSV). A new one takes its place.`;
    if (rows && !confirm(`${lost}\n\nRecord anew, without them?`)) return;
    const now = await postJson("/api/recording", { source: key, recording: on });
    if (now.source !== source()) return;
    showRecording(now.recording);
    status = now;
    say(on ? begun : "Recording stopped.");
  } catch (error) {
    say(error.message, true);
  }
});

for (const name of ["model", "detector"]) {
  byId(name).addEventListener("change", async () => {
    const wanted = byId(name).value;
    say(`Switching to ${wanted}...`);
    try {
      const now = await postJson("/api/stream/settings", { source: source(), [name]: wanted }, 60); // which may have to be loaded first
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
  timeline.choose("");
  known = {};
  status = null;
  showState("connecting", "", false);
  showFacts(null);
  showPeople([], "", "");
  byId("person").length = 1;
  showRecording(null);
  pause(false); // what was kept is of another source
});
document.addEventListener("visibilitychange", update);
// A page that the browser keeps for "back" would hold its connections.
addEventListener("pagehide", close);
addEventListener("pageshow", update);
