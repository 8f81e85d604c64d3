// The page: what a reader does, and what then happens.
import { closeCamera, fromFile, openCamera, pixelsOf, reduce } from "./pictures.js";
import { count, showFaces, showPicture, showRows } from "./view.js";

const $ = (id) => document.getElementById(id);
const RUNS = 5;
// What is compared: its name, its model, whether signed integers may stay so.
const ARMS = {
  plain: ["float, plain JavaScript", "float.onnx"],
  float: ["float, ONNX Runtime", "float.onnx", false],
  stored: ["int8, signed, in part float", "int8.onnx", false],
  int8: ["int8, signed", "int8.onnx", true],
  unsigned: ["int8, unsigned", "unsigned.onnx", false],
};
const STARTED = ["float", "stored", "int8", "unsigned"]; // those of ONNX Runtime
const sizes = {};
let runtime = false; // whether ONNX Runtime has started
let picture = null, results = {}; // of the newest picture; results by arm
let broken = []; // its faces in the second part
let video = null;

const say = (sentence) => { $("status").textContent = sentence; };
const sure = (faces) => faces.filter(({ score }) => score >= $("threshold").valueAsNumber);
const median = (times) => [...times].sort((a, b) => a - b)[times.length >> 1];

// ---- the files of the page, and the worker

async function unpack(name) {
  const base64 = $(name).textContent;
  const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = await new Response(stream).arrayBuffer();
  sizes[name] = bytes.byteLength;
  return bytes;
}

let worker;
const waiting = new Map();

function startWorker() {
  const code = new Blob([$("worker.js").textContent], { type: "text/javascript" });
  worker = new Worker(URL.createObjectURL(code));
  worker.onmessage = ({ data: { id, result, error } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message ?? "the worker stopped"));
    waiting.clear();
  };
}

let tasks = 0;
function ask(task, message = {}, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++tasks, { resolve, reject });
    worker.postMessage({ id: tasks, task, ...message }, transfer);
  });
}

// ---- showing

function caption(arm) {
  return `${ARMS[arm][0]}: ${count(sure(results[arm].faces))}`;
}

function refresh() {
  $("threshold-value").textContent = $("threshold").valueAsNumber.toFixed(2);
  if (!picture) return;
  const float = runtime ? "float" : "plain", int8 = results.int8 ? "int8" : "stored";
  if (results[float]) showFaces($("float"), sure(results[float].faces), caption(float));
  if (results[int8]) showFaces($("int8"), sure(results[int8].faces), caption(int8));
  showBroken();
  const arms = Object.keys(ARMS).filter((arm) => results[arm]);
  showRows($("times"), arms.map((arm) => {
    const [network, file] = ARMS[arm], { faces, times } = results[arm];
    const kilobytes = (sizes[file] / 1024).toFixed(0);
    return [network, sure(faces).length, median(times).toFixed(0), times.length, kilobytes];
  }));
  showRows($("numbers"), arms.flatMap((arm) => sure(results[arm].faces).map(({ score, box }) =>
    [ARMS[arm][0], score.toFixed(3), ...box.map((v) => (v / picture.scale).toFixed(1))])));
  $("verdict").textContent = results.int8?.times.length === RUNS ? verdict() : "";
}

// What the times say, here and now; nothing is written down beforehand.
function verdict() {
  const ratio = (arm) => median(results[arm].times) / median(results.float.times);
  const slower = ratio("int8") > 1.05 ? "slower than" : ratio("int8") < 0.95 ? "faster than" : "as fast as";
  const [stored, signed, unsigned] = ["stored", "int8", "unsigned"].map((arm) => ratio(arm).toFixed(2));
  return `On this machine, in WebAssembly, int8 is ${slower} float. It takes ${signed} times as long with signed ` +
    `activations and ${unsigned} times with unsigned ones; with a part of it in float, ${stored} times. ` +
    "The file is smaller in any case. Whether int8 is faster, only a measurement where it will run can tell.";
}

// ---- finding faces

// Show what is found in a picture, then time the networks on it.
async function show(next) {
  picture = next;
  const found = await find(next);
  if (picture !== next) return; // a newer one has come in between
  results = found;
  showPicture($("float"), next, [], "");
  $("int8").hidden = !runtime && next !== example; // the drawn scene has its stored result
  if (runtime) showPicture($("int8"), next, [], "");
  showPicture($("broken"), next, [], "");
  refresh();
  time(next, found);
}

// What every arm that can run finds in a picture, and a first time for each.
async function find({ canvas }, arms = runtime ? STARTED : ["plain"]) {
  const found = await ask("find", { pixels: pixelsOf({ canvas }), arms });
  for (const arm of arms) found[arm].times = [found[arm].time];
  return found;
}

// The arms take turns, so that whatever else the machine does meets all of them. The first run is
// left out, as it makes room for a new size.
async function time(next, found) {
  await breakIt();
  const rounds = [];
  while (rounds.length < RUNS) {
    const round = await find(next, Object.keys(found));
    if (results !== found) return;
    rounds.push(round);
  }
  for (const arm of Object.keys(found)) found[arm].times = rounds.map((round) => round[arm].time);
  refresh();
}

async function tryTo(action) {
  try {
    await action();
  } catch (error) {
    stopCamera();
    say(`${error.message} The last picture stays.`);
  }
}

function useFile(file) {
  return tryTo(async () => {
    stopCamera();
    say("Reading the picture …");
    await show(await fromFile(file));
    say(`${file.name}: ${count(sure(results[runtime ? "float" : "plain"].faces))} found.`);
  });
}

async function useExample() {
  stopCamera();
  await show(example);
  say(`The drawn scene: ${count(sure(results[runtime ? "float" : "plain"].faces))} found.`);
}

async function startRuntime() {
  $("start").disabled = true;
  say("Unpacking ONNX Runtime …");
  try {
    const [bundle, wasm] = await Promise.all(["runtime.mjs", "runtime.wasm"].map(unpack));
    const arms = await Promise.all(STARTED.map(async (arm) => {
      const [, file, signed] = ARMS[arm];
      return { arm, model: await unpack(file), signed };
    }));
    await ask("start", { bundle, wasm, arms }, [wasm]);
    runtime = true;
    $("offer").hidden = true;
    const { plain } = results;
    await show(picture);
    results.plain = plain; // stays beside the others in the table
    refresh();
    say(`Float: ${count(sure(results.float.faces))}. int8: ${count(sure(results.int8.faces))}.`);
  } catch (error) {
    $("start").disabled = false;
    say(`ONNX Runtime does not start in this browser (${error.message}). Plain JavaScript goes on finding faces.`);
  }
}

// ---- the camera

async function startCamera() {
  video = await openCamera();
  $("camera").textContent = "Stop the camera";
  $("camera").setAttribute("aria-pressed", "true");
  say("The camera is on. Its pictures stay in this page.");
  const own = video;
  while (video === own) {
    await new Promise(requestAnimationFrame); // waits while the page is hidden
    if (video !== own) break;
    const next = reduce(video, video.videoWidth, video.videoHeight);
    // The two that are fastest: a picture that moves should.
    const found = await find(next, runtime ? ["float", "stored"] : ["plain"]);
    if (video !== own) break;
    picture = next;
    results = found;
    for (const id of runtime ? ["float", "int8"] : ["float"]) showPicture($(id), picture, [], "");
    $("int8").hidden = !runtime;
    refresh();
  }
}

function stopCamera() {
  if (!video) return;
  closeCamera(video);
  video = null;
  $("camera").textContent = "Use the camera";
  $("camera").setAttribute("aria-pressed", "false");
}

async function toggleCamera() {
  if (!video) return startCamera();
  stopCamera();
  say("The camera is off. The last picture stays.");
  await show(picture);
}

// ---- the second part: quantization in the open

function settings() {
  return {
    share: $("share").valueAsNumber / 100,
    round: $("round").checked,
    clip: $("clip").checked,
    calibrated: $("calibrated").checked,
  };
}

let breaking = false, again = false;
async function breakIt() {
  const how = settings();
  const zero = how.calibrated
    ? `${$("share").value} % of each output's own`
    : `${Math.round(128 * how.share)} for every output`;
  $("share-value").textContent = zero;
  $("share").setAttribute("aria-valuetext", zero);
  again = breaking;
  if (breaking || !picture) return; // the newest settings are tried as soon as the last are done
  breaking = true;
  const tried = picture;
  const { plain } = await ask("find", { pixels: pixelsOf(picture), arms: ["plain"], how });
  breaking = false;
  if (again || tried !== picture) return breakIt();
  broken = plain.faces;
  const share = (part) => `${((100 * part) / plain.tally.values).toFixed(1)} %`;
  $("clipped").textContent = how.clip
    ? `Clipped at 0: ${share(plain.tally.low)} of all numbers; at 255: ${share(plain.tally.high)}.`
    : "Nothing is clipped.";
  showBroken();
}

function showBroken() {
  if (!$("broken").querySelector("svg")) return;
  const boxes = sure(broken).length;
  showFaces($("broken"), sure(broken), `With these integers: ${boxes} ${boxes === 1 ? "box" : "boxes"}`);
}

// ---- from here on: the start

function listen() {
  $("file").onchange = () => { if ($("file").files[0]) useFile($("file").files[0]); };
  $("camera").onclick = () => tryTo(toggleCamera);
  $("example").onclick = () => tryTo(useExample);
  $("start").onclick = startRuntime;
  $("threshold").oninput = refresh;
  $("how").oninput = () => tryTo(breakIt);
  $("how").onsubmit = (event) => event.preventDefault();
  $("licences").ontoggle = async () => {
    $("notices").textContent ||= new TextDecoder().decode(await unpack("notices.txt"));
  };
  document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("dropping"); };
  document.ondragleave = () => document.body.classList.remove("dropping");
  document.ondrop = (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (event.dataTransfer.files[0]) useFile(event.dataTransfer.files[0]);
    else say("That was not a file. Drop a picture from a folder.");
  };
}

let example;
try {
  const image = document.querySelector("#float img");
  await image.decode();
  example = reduce(image, image.naturalWidth, image.naturalHeight);
  startWorker();
  const [model, table] = await Promise.all(["float.onnx", "table.json"].map(unpack));
  await ask("load", { model, table: JSON.parse(new TextDecoder().decode(table)) });
  document.documentElement.classList.add("live");
  listen();
  await useExample();
} catch (error) {
  say(`You see a drawn scene, with the faces that were found when this page was built. This browser cannot find them itself: ${error.message}.`);
}
