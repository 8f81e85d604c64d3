// Where pictures come from: a file, the camera, an image of the page. Each becomes a canvas whose
// longer side has at most 640 pixels, as the detector wants it.

const LONG_SIDE = 640;

// A canvas with the picture, and the scale: pixels of the canvas for one of the original.
export function reduce(source, width, height) {
  const scale = Math.min(1, LONG_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return { canvas, scale };
}

export function pixelsOf({ canvas }) {
  return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
}

export async function fromFile(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`“${file.name}” is not a picture that this browser can read. Try a JPEG or PNG file.`);
  }
  return reduce(bitmap, bitmap.width, bitmap.height);
}

export async function openCamera() {
  if (!navigator.mediaDevices) throw new Error("This browser lends no camera to a page like this one.");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640 } });
    const video = Object.assign(document.createElement("video"), { srcObject: stream, muted: true });
    video.playsInline = true;
    await video.play();
    return video;
  } catch (error) {
    const why = { NotAllowedError: "it was not permitted", NotFoundError: "there is none" };
    throw new Error(`The camera could not be used: ${why[error.name] ?? error.message}.`);
  }
}

export function closeCamera(video) {
  for (const track of video.srcObject.getTracks()) track.stop();
}
