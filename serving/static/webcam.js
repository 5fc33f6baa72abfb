// The visitor's own camera: pictures go to the server one at a time, answers are drawn over the video.
import { ask, byId, drawBoxes, isOutdated, noAnswer, People, sayIn, Trouble } from "./common.js";

const say = sayIn("webcam");
const trouble = new Trouble("webcam");
const video = byId("webcam-video");
const boxes = byId("webcam-boxes");
const people = new People(byId("webcam-people"));
const staleS = 3; // the picture goes on: what was said of one that is older than this is said of it no more
const sentSide = 640; // px; more would take longer to send and tell the model nothing more
const session = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
let stream = null;
let wish = 0; // number of the latest start or stop; a visitor may take long to allow the camera, and think otherwise meanwhile

function showState() {
  byId("webcam-toggle").textContent = stream ? "Stop my webcam" : "Start my webcam";
  byId("webcam-toggle").classList.toggle("on", Boolean(stream));
}

function showNothing(rate) {
  boxes.getContext("2d").clearRect(0, 0, boxes.width, boxes.height);
  people.show([], "");
  byId("webcam-nobody").hidden = true; // nothing is known
  byId("webcam-rate").textContent = rate;
}

export function stopWebcam() {
  wish += 1;
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
  showNothing("");
  trouble.over(); // nothing is tried any more
  showState();
}

byId("webcam-toggle").addEventListener("click", async () => {
  if (stream) {
    stopWebcam();
    return;
  }
  if (!navigator.mediaDevices) {
    say("Browsers give a page the camera only over https or on localhost.", true);
    return;
  }
  const mine = ++wish;
  let camera = null;
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "user" }, audio: false });
  } catch (error) {
    if (mine === wish) say(`The camera can't be used: ${error.message}`, true);
    return;
  }
  if (mine !== wish) {
    camera.getTracks().forEach((track) => track.stop());
    return;
  }
  stream = camera;
  for (const track of camera.getTracks()) {
    // It would go on as black pictures. A track that this page stops tells nothing.
    track.addEventListener("ended", () => {
      if (stream !== camera) return;
      stopWebcam();
      say("The camera went away: it was unplugged, or this page may no longer use it.", true);
    });
  }
  say("");
  showState();
  video.srcObject = stream;
  await video.play().catch(() => {}); // stopped meanwhile, which `send` sees
  send(camera);
});

async function send(mine) {
  const canvas = document.createElement("canvas");
  let count = 0;
  let since = performance.now();
  while (stream === mine) {
    if (document.hidden || !video.videoWidth) {
      await new Promise((done) => setTimeout(done, 200));
      continue;
    }
    const scale = Math.min(1, sentSide / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(video.videoWidth * scale);
    canvas.height = Math.round(video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
    const model = byId("webcam-model").value;
    const query = new URLSearchParams({ session, model, detector: byId("webcam-detector").value });
    const late = setTimeout(() => {
      if (stream === mine) showNothing("waiting for the server");
    }, 1000 * staleS);
    try {
      const answer = await ask(`/api/webcam?${query}`, { method: "POST", headers: { "Content-Type": "image/jpeg" }, body: blob }, 60); // the model may have to be loaded first
      const { faces } = await answer.json();
      if (stream !== mine) return;
      trouble.over();
      boxes.width = canvas.width;
      boxes.height = canvas.height;
      drawBoxes(boxes.getContext("2d"), faces, model);
      people.show(faces, model);
      byId("webcam-nobody").hidden = faces.length > 0;
      count += 1;
      const passed = performance.now() - since;
      if (passed > 1000) {
        byId("webcam-rate").textContent = `${((1000 * count) / passed).toFixed(1)} pictures/s`;
        count = 0;
        since = performance.now();
      }
    } catch (error) {
      if (stream !== mine) return;
      showNothing("");
      trouble.tell(noAnswer(error));
      const outdated = await isOutdated().catch(() => false); // of a server that does not answer nothing is known
      if (stream !== mine) return;
      if (outdated) {
        stopWebcam();
        say("The server has other models or sources now than this page lets choose from: load the page again.", true);
        return;
      }
      await new Promise((done) => setTimeout(done, 2000));
    } finally {
      clearTimeout(late);
    }
  }
}
