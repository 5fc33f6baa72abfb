// A picture or a video that the visitor chooses.
import { ask, byId, colourOf, drawBoxes, enlargement, limits, noAnswer, People, sayIn } from "./common.js";
import { meanOf, Timeline } from "./chart.js";
import { upright } from "./upright.js";

const say = sayIn("upload");
const people = new People(byId("upload-people"));
const timeline = new Timeline(byId("upload-timeline"), byId("upload-legend"), null);
const image = byId("upload-image");
const video = byId("upload-video");
const boxes = byId("upload-boxes");
const csv = byId("upload-csv");
let chosen = null; // the file; its input is emptied where it must be possible to choose the same once more, which else is no change
let due = 0; // analysis with other options
let stop = null; // of what is being analysed now
let frames = []; // of the video that is shown
let draw = null; // the picture that is shown, with its boxes
const smallerPixels = 12e6; // of a picture that is too large to be sent: a face that can be found is large enough in it
const toPlay = "Play it to see the boxes.";
const notPlayed = "This browser can't play it; the chart and the CSV have the results.";

const options = () => ({ model: byId("upload-model").value, detector: byId("upload-detector").value, faces: byId("upload-faces").value });

function hideProgress() {
  if (document.activeElement === byId("upload-stop")) byId("upload-file").focus(); // else the keyboard would begin at the page's top
  byId("upload-stop").hidden = byId("upload-progress").hidden = true;
}

function reset() {
  clearTimeout(due);
  stop?.abort();
  stop = new AbortController();
  frames = [];
  draw = null;
  for (const link of [csv.href, video.src]) if (link?.startsWith("blob:")) URL.revokeObjectURL(link);
  video.removeAttribute("src");
  for (const part of [image, video, boxes, csv, byId("upload-screen"), byId("upload-timeline"), byId("upload-heading")]) part.hidden = true;
  hideProgress();
  people.show([], "");
  timeline.setLabels([], []);
  say("");
}

// Browsers tell a type by the name, where they know it, so the first bytes are asked too, as `video_suffix` of the server does.
// Pictures of telephones (HEIC, AVIF) begin as an MP4 does, but for the brand.
async function isVideo(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  const isMp4 = /^.{4}ftyp(?!avi[fs]|he[iv][cmsx]|miaf|mif1|msf1)/s.test(start);
  return file.type.startsWith("video/") || isMp4 || /^\x1a\x45\xdf\xa3|^RIFF.{4}AVI/s.test(start);
}

async function analyse(file) {
  if (!file) return;
  reset();
  const { signal } = stop;
  try {
    const moves = await isVideo(file);
    if (signal.aborted) return;
    if (moves) checkSize(file, limits.videoMb);
    say(`Analysing ${file.name}...`);
    await (moves ? analyseVideo(file, signal) : analyseImage(file, signal));
  } catch (error) {
    if (signal.aborted) return;
    byId("upload-file").value = "";
    say(noAnswer(error), true);
  } finally {
    if (!signal.aborted) hideProgress();
  }
}

function checkSize(file, most) {
  if (file.size > most * 2 ** 20) throw new Error(`${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB; at most ${most} are taken.`);
}

// A picture of a telephone may be larger than the server takes.
async function smaller(bitmap) {
  const scale = Math.min(1, Math.sqrt(Math.min(smallerPixels, limits.imagePixels) / (bitmap.width * bitmap.height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.floor(scale * bitmap.width));
  canvas.height = Math.max(1, Math.floor(scale * bitmap.height));
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
}

async function analyseImage(file, signal) {
  let bitmap = await upright(file).catch(() => null); // the server may read what this browser does not, or tells what is wrong
  const isLarge = bitmap && (bitmap.width * bitmap.height > limits.imagePixels || file.size > limits.imageMb * 2 ** 20);
  if (!isLarge) checkSize(file, limits.imageMb);
  const form = new FormData();
  form.append("image", isLarge ? await smaller(bitmap) : file);
  if (signal.aborted) return;
  for (const [name, value] of Object.entries(options())) form.append(name, value);
  const answer = await (await ask("/api/predict", { method: "POST", body: form, signal })).json();
  if (signal.aborted) return;
  bitmap ??= await upright(file);
  // Where something else than EXIF says how the picture is turned, boxes beside the faces would be worse than no picture.
  const isTurned = (bitmap.width > bitmap.height) !== (answer.width > answer.height);
  const scale = enlargement(answer.width, answer.height);
  image.width = scale * answer.width;
  image.height = scale * answer.height;
  // Before the boxes are drawn, whose letters are as large as the picture's width on the page wants them.
  image.hidden = byId("upload-screen").hidden = byId("upload-heading").hidden = false;
  draw = () => {
    const context = image.getContext("2d");
    context.clearRect(0, 0, image.width, image.height); // a transparent picture would leave the labels of another size
    context.imageSmoothingEnabled = false; // pixels of a small picture as they are
    if (!isTurned) context.drawImage(bitmap, 0, 0, image.width, image.height);
    drawBoxes(context, answer.faces, answer.model, scale);
  };
  draw();
  byId("upload-heading").textContent = "Faces";
  people.show(answer.faces, answer.model);
  const count = answer.faces.length;
  const sent = isLarge ? ` It is too large to be sent, so it was made ${answer.width} x ${answer.height} pixels first.` : "";
  const turned = isTurned ? " This browser would show the picture turned, so its boxes are shown alone." : "";
  say((count ? `${count} ${count === 1 ? "face" : "faces"} in ${file.name}.` : `No face was found in ${file.name}.`) + turned + sent);
  giveCsv([{ time_s: "", faces: answer.faces }]);
}

async function analyseVideo(file, signal) {
  const form = new FormData();
  form.append("video", file);
  for (const [name, value] of Object.entries(options())) if (name !== "faces") form.append(name, value);
  const progress = byId("upload-progress");
  progress.removeAttribute("value");
  progress.hidden = byId("upload-stop").hidden = false;
  const answer = await ask("/api/video", { method: "POST", body: form, signal });
  const model = byId("upload-model").value;
  let info = null;
  let end = null;
  try {
    for await (const line of linesOf(answer.body)) {
      if (signal.aborted) return;
      if (line.type === "error") throw new Error(line.message);
      if (line.type === "video") {
        info = line;
        timeline.setLabels(line.labels, line.labels.map((label) => colourOf(line.model, label)));
        video.src = URL.createObjectURL(file);
        for (const part of [video, boxes, byId("upload-screen"), byId("upload-timeline"), byId("upload-heading")]) part.hidden = false;
        byId("upload-heading").textContent = "People at this moment";
        const scale = enlargement(line.width, line.height);
        boxes.width = scale * line.width;
        boxes.height = scale * line.height;
        showMoment(model, frames, scale);
      } else if (line.type === "frame") {
        frames.push(line);
        timeline.add(line.time_s, meanOf(line.faces, info.labels));
        if (frames.length % 5 === 0) timeline.draw();
        if (info.duration_s !== null) progress.value = Math.min(1, line.time_s / Math.min(info.duration_s, info.limit_s));
      } else if (line.type === "end") {
        end = line;
      }
    }
    if (!end) throw new Error("The connection ended");
  } catch (error) {
    if (signal.aborted || !frames.length) throw error;
    timeline.draw();
    giveCsv(frames);
    throw new Error(`${noAnswer(error)}; the chart and the CSV have the ${frames.length} frames that were analysed before.`);
  }
  timeline.draw();
  giveCsv(frames);
  const ids = new Set(frames.flatMap((frame) => frame.faces.map((face) => face.id)));
  const cut = (end.truncated ? ` Only the first ${Math.round(info.limit_s)} s were analysed.` : "") + (end.missing ? ` Not whole: ${end.missing}.` : "");
  say(`${end.frames} frames of ${file.name} analysed, ${ids.size} ${ids.size === 1 ? "person" : "people"} seen. ${video.hidden ? notPlayed : toPlay}${cut}`);
}

// Letters keep their size on the page when the picture there gets another, as with the window.
new ResizeObserver(() => draw?.()).observe(image);

// Browsers play fewer formats than the server reads, such as no AVI.
video.addEventListener("error", () => {
  if (!video.hasAttribute("src")) return; // it was taken away
  for (const part of [video, boxes, byId("upload-screen"), byId("upload-heading")]) part.hidden = true;
  people.show([], "");
  byId("upload-message").textContent = byId("upload-message").textContent.replace(toPlay, notPlayed);
});

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

// What was found at the moment that the video shows. mine: the frames this began with; others mean another upload.
function showMoment(model, mine, scale) {
  if (mine !== frames || video.hidden) return;
  const later = mine.findIndex((frame) => frame.time_s > video.currentTime + 0.001);
  const found = mine.at(later < 0 ? -1 : later - 1);
  // After the last frame that is analysed nothing is known.
  const known = later > 0 || (later < 0 && found && video.currentTime - found.time_s < 0.5);
  const faces = known ? found.faces : [];
  const context = boxes.getContext("2d");
  context.clearRect(0, 0, boxes.width, boxes.height);
  drawBoxes(context, faces, model, scale);
  people.show(faces, model);
  setTimeout(() => requestAnimationFrame(() => showMoment(model, mine, scale)), 60);
}

function giveCsv(rows) {
  const labels = Object.keys(rows.find((row) => row.faces.length)?.faces[0].probabilities ?? {});
  const head = ["time_s", "face", "x1", "y1", "x2", "y2", "label", "confidence", "uncertain", ...labels.map((label) => `p_${label}`)];
  const lines = [head];
  for (const { time_s, faces } of rows) {
    faces.forEach((face, index) =>
      lines.push([time_s, face.id ?? index + 1, ...face.box, face.label, face.confidence, Number(face.uncertain), ...labels.map((label) => face.probabilities[label])]),
    );
    if (!faces.length) lines.push([time_s, ...Array(head.length - 1).fill("")]);
  }
  const quoted = (cell) => (/[",\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell);
  csv.href = URL.createObjectURL(new Blob([lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n"], { type: "text/csv" }));
  csv.hidden = false;
}

const form = byId("upload-form");
form.addEventListener("submit", (event) => event.preventDefault());

function choose(file) {
  chosen = file;
  analyse(file);
}

byId("upload-file").addEventListener("change", (event) => choose(event.target.files[0]));
for (const name of ["upload-model", "upload-detector", "upload-faces"]) {
  byId(name).addEventListener("change", () => {
    if (!chosen) return;
    // Arrow keys walk through options. What is no longer wanted leaves its place on the server meanwhile.
    stop.abort();
    clearTimeout(due);
    due = setTimeout(() => analyse(chosen), 400);
  });
}
byId("upload-stop").addEventListener("click", () => {
  reset();
  chosen = null;
  byId("upload-file").value = "";
  say("Stopped.");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  form.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("over", kind === "dragover");
  });
}
form.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) {
    byId("upload-file").files = event.dataTransfer.files;
    choose(event.dataTransfer.files[0]);
  }
});
