// The visitor's own camera: pictures go to the server one at a time, answers are drawn over the video.
import { ask, byId, drawBoxes, People, say } from "./common.js";

const video = byId("webcam-video");
const boxes = byId("webcam-boxes");
const people = new People(byId("webcam-people"));
const sentSide = 640; // px; more would take longer to send and tell the model nothing more
const session = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
let stream = null;

export async function stopWebcam() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  video.srcObject = null;
  boxes.getContext("2d").clearRect(0, 0, boxes.width, boxes.height);
  people.show([], "");
  byId("webcam-rate").textContent = "";
  byId("webcam-toggle").textContent = "Start my webcam";
  byId("webcam-toggle").setAttribute("aria-pressed", "false");
}

byId("webcam-toggle").addEventListener("click", async () => {
  if (stream) {
    await stopWebcam();
    return;
  }
  if (!navigator.mediaDevices) {
    say("Browsers give a page the camera only over https or on localhost.", true);
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 }, facingMode: "user" }, audio: false });
  } catch (error) {
    say(`The camera can't be used: ${error.message}`, true);
    return;
  }
  say("");
  byId("webcam-toggle").textContent = "Stop my webcam";
  byId("webcam-toggle").setAttribute("aria-pressed", "true");
  video.srcObject = stream;
  await video.play();
  send(stream);
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
    try {
      const answer = await ask(`/api/webcam?${query}`, { method: "POST", headers: { "Content-Type": "image/jpeg" }, body: blob });
      const { faces } = await answer.json();
      if (stream !== mine) return;
      boxes.width = canvas.width;
      boxes.height = canvas.height;
      drawBoxes(boxes.getContext("2d"), faces, model);
      people.show(faces, model);
      count += 1;
      const passed = performance.now() - since;
      if (passed > 1000) {
        byId("webcam-rate").textContent = `${((1000 * count) / passed).toFixed(1)} pictures/s`;
        count = 0;
        since = performance.now();
      }
    } catch (error) {
      say(error.message, true);
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
}
