// Pictures as the server sees them: turned upright by their EXIF orientation.

// A WebP of two pixels side by side that says: turn me by a quarter.
const sample = "UklGRlIAAABXRUJQVlA4WAoAAAAIAAAAAQAAAAAAVlA4TBEAAAAvAQAAAA8Q87//8x8OMqL/AQBFWElGGgAAAE1NACoAAAAIAAEBEgADAAAAAQAGAAAAAAAA";

// Where pixels of a picture of w x h go, by its orientation, as `transform` of a canvas takes it.
const turns = {
  2: (w) => [-1, 0, 0, 1, w, 0],
  3: (w, h) => [-1, 0, 0, -1, w, h],
  4: (w, h) => [1, 0, 0, -1, 0, h],
  5: () => [0, 1, 1, 0, 0, 0],
  6: (w, h) => [0, 1, -1, 0, h, 0],
  7: (w, h) => [0, -1, -1, 0, h, w],
  8: (w) => [0, -1, 1, 0, 0, w],
};

// What can be drawn on a canvas. Browsers turn JPEG and PNG themselves; WebP some do, and others, such as Chromium, do not.
export async function upright(file) {
  const bitmap = await createImageBitmap(file);
  const turn = turns[orientationOfWebp(await file.arrayBuffer())];
  if (!turn || (await turnsWebp())) return bitmap;
  const { width, height } = bitmap;
  const move = turn(width, height);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = move[0] ? [width, height] : [height, width];
  const pen = canvas.getContext("2d");
  pen.setTransform(...move);
  pen.drawImage(bitmap, 0, 0);
  return canvas;
}

async function turnsWebp() {
  const bytes = Uint8Array.from(atob(sample), (letter) => letter.charCodeAt(0));
  return (await createImageBitmap(new Blob([bytes]))).width === 1;
}

// 1 (as it is) to 8; null where this is no WebP, or says nothing that can be read.
function orientationOfWebp(buffer) {
  const view = new DataView(buffer);
  const word = (at, length = 4) => String.fromCharCode(...new Uint8Array(buffer, at, length));
  try {
    if (word(0) !== "RIFF" || word(8) !== "WEBP") return null;
    let at = 12;
    while (word(at) !== "EXIF") {
      const size = view.getUint32(at + 4, true);
      at += 8 + size + (size % 2);
    }
    const tiff = at + 8 + (word(at + 8) === "Exif" ? 6 : 0); // some write the head that JPEG has there
    const little = word(tiff, 2) === "II";
    const entries = tiff + view.getUint32(tiff + 4, little);
    for (let entry = entries + 2; entry < entries + 2 + 12 * view.getUint16(entries, little); entry += 12) {
      if (view.getUint16(entry, little) === 0x0112) return view.getUint16(entry + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it ends before that
  }
  return null;
}
