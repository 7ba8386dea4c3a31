"use strict";
// YOLACT's detection step (decode, Fast NMS, assembly, crop), and a page to move its parts.

const PROTOTYPES = 32, LARGEST_SIDE = 1200, SMALLEST_CROP = 0.02;
const COLORS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"]; // Okabe and Ito
const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// ---- from the network's outputs to detections; boxes are relative [x1, y1, x2, y2]

function decode(offsets, prior, variances) {
  const [cx, cy, width, height] = prior, [ofCenter, ofSize] = variances;
  const x = cx + offsets[0] * ofCenter * width, y = cy + offsets[1] * ofCenter * height;
  const w = width * Math.exp(offsets[2] * ofSize) / 2, h = height * Math.exp(offsets[3] * ofSize) / 2;
  return [x - w, y - h, x + w, y + h];
}

function area(box) {
  return Math.max(0, box[2] - box[0]) * Math.max(0, box[3] - box[1]);
}

function iou(a, b) {
  const shared = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return shared / Math.max(area(a) + area(b) - shared, 1e-30);
}

// Fast NMS: of each class, a box goes if any better one covers it, also one that goes itself.
function fastNms(boxes, scores, classes, model) {
  const found = [];
  for (let k = 1; k < classes; k++) {
    const best = boxes.map((_, i) => i).sort((a, b) => scores(b, k) - scores(a, k)).slice(0, model.candidates_per_class);
    best.forEach((i, rank) => {
      for (let other = 0; other < rank; other++) if (iou(boxes[best[other]], boxes[i]) > model.nms_iou) return;
      found.push({ index: i, label: k, score: scores(i, k) });
    });
  }
  return found.sort((a, b) => b.score - a.score).slice(0, model.max_detections);
}

function detect(outputs, model) {
  const { class_scores: scores, box_offsets: offsets, coefficients } = outputs;
  const classes = model.class_names.length + 1, candidates = [];
  for (let p = 0; p < model.priors.length; p++) {
    for (let k = 1; k < classes; k++) {
      if (scores[p * classes + k] > model.score_threshold) { candidates.push(p); break; }
    }
  }
  const boxes = candidates.map((p) => decode(offsets.subarray(4 * p, 4 * p + 4), model.priors[p], model.variances));
  return fastNms(boxes, (i, k) => scores[candidates[i] * classes + k], classes, model).map(({ index, label, score }) => {
    const start = candidates[index] * PROTOTYPES;
    return { box: boxes[index], label, score, coefficients: coefficients.slice(start, start + PROTOTYPES) };
  });
}

// Prototypes [h, w, 32] times coefficients, added up: before the sigmoid, [h, w].
function maskSum(prototypes, coefficients) {
  const sum = new Float32Array(prototypes.length / PROTOTYPES);
  for (let i = 0, at = 0; i < sum.length; i++) {
    let value = 0;
    for (let k = 0; k < PROTOTYPES; k++) value += prototypes[at++] * coefficients[k];
    sum[i] = value;
  }
  return sum;
}

// Columns (or rows) of a box on a grid, with padding: from, to (exclusive).
function cropRange(low, high, size, padding) {
  const from = Math.ceil(Math.min(low, high) * size - padding), to = Math.ceil(Math.max(low, high) * size + padding);
  return [clamp(from, 0, size), clamp(to, 0, size)];
}

function cropped(sum, box, model) {
  const [rows, columns] = model.prototypes, probabilities = new Float32Array(sum.length);
  const [x1, x2] = box ? cropRange(box[0], box[2], columns, model.crop_padding) : [0, columns];
  const [y1, y2] = box ? cropRange(box[1], box[3], rows, model.crop_padding) : [0, rows];
  for (let y = y1; y < y2; y++) {
    for (let x = x1; x < x2; x++) probabilities[y * columns + x] = sigmoid(sum[y * columns + x]);
  }
  return probabilities;
}

// Bilinear, pixel centers at .5, as PyTorch's align_corners=False: for each of `to` cells two cells and a weight.
function interpolation(size, to) {
  const low = new Uint16Array(to), high = new Uint16Array(to), weight = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const at = clamp((i + 0.5) * size / to - 0.5, 0, size - 1);
    low[i] = Math.floor(at);
    high[i] = Math.min(low[i] + 1, size - 1);
    weight[i] = at - low[i];
  }
  return { low, high, weight };
}

// A mask of a picture's size, 1 where the resized probability is above the threshold.
function resizedMask(probabilities, rows, columns, width, height, threshold) {
  const mask = new Uint8Array(width * height), line = new Float32Array(columns);
  const { low, high, weight } = interpolation(columns, width), down = interpolation(rows, height);
  for (let y = 0, at = 0; y < height; y++) {
    const top = down.low[y] * columns, bottom = down.high[y] * columns, part = down.weight[y];
    for (let x = 0; x < columns; x++) line[x] = probabilities[top + x] * (1 - part) + probabilities[bottom + x] * part;
    for (let x = 0; x < width; x++) {
      mask[at++] = line[low[x]] * (1 - weight[x]) + line[high[x]] * weight[x] > threshold ? 1 : 0;
    }
  }
  return mask;
}

function maskOf(detection, prototypes, model, width, height, threshold = model.mask_threshold) {
  const box = model.crop ? detection.box : null;
  const probabilities = cropped(maskSum(prototypes, detection.coefficients), box, model);
  return resizedMask(probabilities, ...model.prototypes.slice(0, 2), width, height, threshold);
}

// ---- the network

function loadScript(source) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = resolve;
    script.onerror = () => reject(new Error(`${source} is missing; make touch builds it`));
    document.head.append(script);
  });
}

// What a script of build/ has set.
async function loadPart(source, name) {
  await loadScript(source);
  if (!globalThis[name]) throw new Error(`${source} is damaged; make touch builds it`);
  return globalThis[name];
}

// Files come as base64 of gzip in scripts, as a page on a disk may not fetch.
async function unpack(text) {
  try {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  } catch {
    throw new Error("a file of build/ is damaged; make touch builds it");
  }
}

async function startRuntime(kind) {
  const { script, module, wasm } = (await loadPart(`build/runtime_${kind}.js`, "vocsegRuntime"))[kind];
  const url = (text) => URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
  await loadScript(url(await unpack(script)));
  const runtime = globalThis.ort;
  runtime.env.logLevel = "fatal";
  runtime.env.wasm.wasmPaths = { mjs: url(await unpack(module)) };
  runtime.env.wasm.wasmBinary = (await unpack(wasm)).buffer;
  const threads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  runtime.env.wasm.numThreads = threads;
  const options = { executionProviders: [kind], logSeverityLevel: 4 };
  const session = await runtime.InferenceSession.create(await unpack(globalThis.vocsegModel.onnx), options);
  const one = threads === 1 ? ", one thread, as this page may not have more" : `, ${threads} threads`;
  return { runtime, session, name: kind === "webgpu" ? "WebGPU" : `WebAssembly${one}` };
}

async function hasWebGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    // One in software is slower than WebAssembly by far.
    return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  } catch {
    return false;
  }
}

async function startNetwork() {
  const model = (await loadPart("build/model.js", "vocsegModel")).description;
  let started = null;
  if (await hasWebGpu()) started = await startRuntime("webgpu").catch(() => null);
  started ??= await startRuntime("wasm");
  return { ...started, model };
}

// RGB planes in 0..1 [1, 3, h, w] of a canvas's pixels.
function planes({ data, width, height }) {
  const size = width * height, values = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) values[c * size + i] = data[4 * i + c] / 255;
  return values;
}

async function run(network, pixels) {
  const { runtime, session, model } = network;
  const images = new runtime.Tensor("float32", planes(pixels), [1, 3, pixels.height, pixels.width]);
  const out = await session.run({ [model.input.name]: images });
  return Object.fromEntries(model.outputs.map((name) => [name, out[name].data]));
}

// ---- the page

const $ = (id) => document.getElementById(id);
const percent = (x) => `${Math.round(100 * x)} %`;
const state = {
  network: null, pixels: null, name: "", prototypes: null, detections: [], layers: null,
  chosen: -1, coefficients: null, order: [], box: null, crop: true, threshold: 0.5, count: PROTOTYPES, sample: null, webcam: null,
};

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function colorOf(index) {
  return COLORS[index % COLORS.length];
}

function rgb(color) {
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
}

function add(parent, name, attributes = {}, text = "") {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

function title(detection) {
  return `${state.network.model.class_names[detection.label - 1]} ${detection.score.toFixed(2)}`;
}

async function show(source, name, sample = null) {
  const scale = Math.min(1, LARGEST_SIDE / Math.max(source.width, source.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(source.width * scale)), Math.max(1, Math.round(source.height * scale)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  const started = performance.now();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const outputs = await run(state.network, pixels);
  const detections = detect(outputs, state.network.model);
  Object.assign(state, { pixels, name, sample, prototypes: outputs.prototypes, detections });
  const took = `${Math.round(performance.now() - started)} ms for ${name}`;
  // Of a webcam, once: a screen reader reads each change.
  say("status", `${state.network.name}: ${state.webcam ? "press Webcam again to look into its picture" : took}.`);
  listDetections();
  drawPrototypes();
  choose(shown().length ? 0 : -1);
}

function shown() {
  return state.detections.filter((d) => d.score >= Number($("score").value));
}

function listDetections() {
  const list = $("detections");
  list.replaceChildren();
  shown().forEach((detection, i) => {
    const button = add(list, "button", { type: "button", "aria-pressed": "false", style: `--color: ${colorOf(i)}` }, title(detection));
    button.addEventListener("click", () => choose(i));
  });
  if (!list.children.length) add(list, "small", {}, "Nothing was found at this score.");
}

function choose(index) {
  const detection = state.detections[index];
  state.chosen = index;
  [...$("detections").querySelectorAll("button")].forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
  if (detection) {
    const means = new Float64Array(PROTOTYPES);
    state.prototypes.forEach((value, i) => { means[i % PROTOTYPES] += Math.abs(value); });
    const effect = (k) => means[k] * Math.abs(detection.coefficients[k]);
    state.order = [...means.keys()].sort((a, b) => effect(b) - effect(a));
  }
  state.layers = makeLayers();
  reset();
  listBars();
  drawRoi();
}

// A detection's mask as predicted, made when it is needed.
function predictedMask(detection) {
  const { width, height } = state.pixels;
  return (detection.mask ??= maskOf(detection, state.prototypes, state.network.model, width, height));
}

// Pictures that each frame takes its pixels from, by the mask: `around` and `object`, `light` and the picture.
function makeLayers() {
  const { pixels, chosen } = state, around = copyOf(pixels), object = copyOf(pixels), light = copyOf(pixels);
  const others = new Uint8Array(pixels.width * pixels.height), own = state.detections[chosen];
  shown().forEach((detection, i) => {
    if (i === chosen) return;
    const mask = predictedMask(detection);
    paint(around, mask, colorOf(i), own ? 0.3 : 0.5);
    // The same object, found as another class, is no other object.
    if (own && iou(own.box, detection.box) < 0.5) for (let p = 0; p < mask.length; p++) others[p] |= mask[p];
  });
  paint(object, new Uint8Array(others.length).fill(1), colorOf(Math.max(chosen, 0)), 0.65);
  for (let i = 0; i < light.data.length; i++) light.data[i] = 255 - 0.2 * (255 - light.data[i]);
  const words = (image) => new Uint32Array(image.data.buffer);
  return { around: words(around), object: words(object), light: words(light), picture: words(pixels), others };
}

function reset() {
  const detection = state.detections[state.chosen];
  if (detection) Object.assign(state, { coefficients: detection.coefficients.slice(), box: [...detection.box] });
  Object.assign(state, { crop: true, threshold: state.network.model.mask_threshold, count: PROTOTYPES });
  say("lesson", "");
  showControls();
  draw();
}

// Put the state into the controls.
function showControls() {
  $("crop").checked = state.crop;
  $("threshold").value = state.threshold;
  $("count").value = state.count;
  for (const [k, bar] of bars) bar.value = state.coefficients ? state.coefficients[k] : 0;
  edges.forEach((edge, i) => { edge.value = state.box ? clamp(state.box[i], 0, 1) : 0; });
}

const bars = new Map();

function listBars() {
  $("bars").replaceChildren();
  $("empty").replaceChildren();
  bars.clear();
  const empty = state.order.filter((k) => !thumbnails[k].largest).length;
  $("empty").parentElement.hidden = state.chosen < 0 || !empty;
  say("empty-text", `${empty} prototypes that are 0 all over this picture`);
  if (state.chosen < 0) return;
  state.order.forEach((k) => {
    const { image, largest } = thumbnails[k];
    const item = add($(largest ? "bars" : "empty"), "li"), picture = add(item, "canvas", { "aria-hidden": "true" });
    picture.width = image.width;
    picture.height = image.height;
    picture.style.aspectRatio = `${state.pixels.width} / ${state.pixels.height}`;
    picture.getContext("2d").putImageData(image, 0, 0);
    const bar = add(item, "input", { type: "range", min: -1, max: 1, step: 0.01, "aria-label": `coefficient of prototype ${k}` });
    bar.value = state.coefficients[k];
    add(item, "span");
    bar.addEventListener("input", () => { state.coefficients[k] = Number(bar.value); touched(); });
    bars.set(k, bar);
  });
  draw();
}

let thumbnails = [];

function drawPrototypes() {
  const [rows, columns] = state.network.model.prototypes, cells = rows * columns;
  thumbnails = Array.from({ length: PROTOTYPES }, (_, k) => {
    const image = new ImageData(columns, rows);
    let largest = 0;
    for (let i = 0; i < cells; i++) largest = Math.max(largest, state.prototypes[i * PROTOTYPES + k]);
    for (let i = 0; i < cells; i++) {
      const gray = 255 - 235 * Math.max(0, state.prototypes[i * PROTOTYPES + k]) / (largest || 1);
      image.data.set([gray, gray, gray, 255], 4 * i);
    }
    return { image, largest };
  });
}

let waiting = false;

// Draw once per frame, however many events come.
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawNow(); });
}

function currentSum() {
  const used = state.coefficients.map((value, k) => (state.order.indexOf(k) < state.count ? value : 0));
  return maskSum(state.prototypes, used);
}

function currentMask(sum) {
  const { model } = state.network, [rows, columns] = model.prototypes;
  const probabilities = cropped(sum, state.crop ? state.box : null, model);
  return resizedMask(probabilities, rows, columns, state.pixels.width, state.pixels.height, state.threshold);
}

function drawNow() {
  const started = performance.now(), chosen = state.detections[state.chosen];
  say("about", chosen ? "" : "No object is chosen.");
  let mask = null;
  if (chosen) {
    const sum = currentSum();
    mask = currentMask(sum);
    drawSum(sum);
    fill($("own"), mask, state.layers.picture, state.layers.light);
    describe(mask);
  } else {
    for (const id of ["sum", "own"]) $(id).width = $(id).width; // empties it
  }
  if (state.pixels) drawStage(mask);
  for (const output of document.querySelectorAll("output")) output.textContent = $(output.htmlFor.value).value;
  $("controls").inert = !chosen || Boolean(state.webcam);
  for (const [k, bar] of bars) {
    const value = state.coefficients[k], at = 50 + 50 * value;
    bar.style.setProperty("--from", `${Math.min(50, at)}%`);
    bar.style.setProperty("--to", `${Math.max(50, at)}%`);
    bar.style.setProperty("--color", value < 0 ? COLORS[4] : COLORS[0]);
    bar.nextSibling.textContent = value.toFixed(2);
    bar.parentElement.classList.toggle("out", state.order.indexOf(k) >= state.count);
  }
  state.frameMs = performance.now() - started;
}

function paint(image, mask, color, alpha) {
  const [r, g, b] = rgb(color), { data } = image;
  for (let i = 0; i < mask.length; i++) {
    if (!mask[i]) continue;
    data[4 * i] += (r - data[4 * i]) * alpha;
    data[4 * i + 1] += (g - data[4 * i + 1]) * alpha;
    data[4 * i + 2] += (b - data[4 * i + 2]) * alpha;
  }
}

function copyOf(pixels) {
  return new ImageData(new Uint8ClampedArray(pixels.data), pixels.width, pixels.height);
}

// A canvas with pixels of one picture inside of the mask, of another outside; null: nothing is inside.
function fill(canvas, mask, inside, outside) {
  const { width, height } = state.pixels, image = new ImageData(width, height), words = new Uint32Array(image.data.buffer);
  words.set(outside);
  if (mask) for (let i = 0; i < mask.length; i++) if (mask[i]) words[i] = inside[i];
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function drawStage(mask) {
  const canvas = $("stage"), image = state.pixels, visible = shown();
  fill(canvas, mask, state.layers.object, state.layers.around);
  const context = canvas.getContext("2d");
  context.lineWidth = Math.max(2, image.width / 250);
  context.font = `${Math.max(12, image.width / 35)}px system-ui, sans-serif`;
  visible.forEach((detection, i) => {
    const [x1, y1, x2, y2] = i === state.chosen ? state.box : detection.box;
    context.strokeStyle = colorOf(i);
    context.setLineDash(i === state.chosen && !state.crop ? [8, 6] : []);
    context.strokeRect(x1 * image.width, y1 * image.height, (x2 - x1) * image.width, (y2 - y1) * image.height);
    if (i !== state.chosen && state.chosen >= 0) return;
    context.setLineDash([]);
    context.lineWidth *= 2;
    context.strokeStyle = "#000";
    const at = [x1 * image.width + 4, Math.max(y1 * image.height, 0) + image.width / 32];
    context.strokeText(title(detection), ...at);
    context.fillStyle = "#fff";
    context.fillText(title(detection), ...at);
    context.lineWidth /= 2;
  });
  canvas.setAttribute("aria-label", `${state.name}: ${visible.map(title).join(", ") || "nothing found"}`);
}

function drawSum(sum) {
  const canvas = $("sum"), { model } = state.network, [rows, columns] = model.prototypes;
  const image = new ImageData(columns, rows), low = rgb(COLORS[4]), high = rgb(COLORS[5]);
  for (let i = 0; i < sum.length; i++) {
    const strength = Math.min(1, Math.abs(sum[i]) / 6), color = sum[i] < 0 ? low : high;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 + (color[c] - 255) * strength;
    image.data[4 * i + 3] = 255;
  }
  const zoom = 5, { width, height } = state.pixels;
  canvas.width = columns * zoom;
  canvas.height = rows * zoom;
  canvas.style.aspectRatio = $("own").style.aspectRatio = `${width} / ${height}`;
  const small = new OffscreenCanvas(columns, rows), context = canvas.getContext("2d");
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  const [x1, y1, x2, y2] = state.box.map((v, i) => v * (i % 2 ? canvas.height : canvas.width));
  context.lineWidth = 4;
  context.setLineDash(state.crop ? [] : [10, 8]);
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  const place = ["left", "top", "right", "bottom"].map((side, i) => `${side} ${percent(state.box[i])}`).join(", ");
  canvas.setAttribute("aria-label", `The sum, with the crop box: ${place}. Arrow keys move the box, with shift they resize it.`);
}

// What the mask is, in numbers: pixels outside of the predicted box, and on what else was found.
function measure(mask) {
  const { width, height } = state.pixels, { others } = state.layers, { box } = state.detections[state.chosen];
  const [left, right] = [0, 2].map((i) => box[i] * width - 0.5), [top, bottom] = [1, 3].map((i) => box[i] * height - 0.5);
  let all = 0, inside = 0, onOthers = 0;
  for (let y = 0, i = 0; y < height; y++) {
    const row = y >= top && y <= bottom;
    for (let x = 0; x < width; x++, i++) {
      if (!mask[i]) continue;
      all++;
      onOthers += others[i];
      if (row && x >= left && x <= right) inside++;
    }
  }
  return { all, outside: 1 - inside / Math.max(1, all), onOthers: onOthers / Math.max(1, all) };
}

function describe(mask) {
  const { all, outside, onOthers } = measure(mask);
  const parts = all
    ? `${percent(all / mask.length)} of the picture; ${percent(outside)} of it outside of the predicted box, ${percent(onOthers)} on other objects found`
    : "empty";
  say("about", `${title(state.detections[state.chosen])}. The mask is ${parts}.`);
}

function matchOf(detection) {
  // Of any class, as the models may disagree on what it is.
  const overlap = (other) => iou(other.box, detection.box);
  const near = (state.sample?.mask_rcnn ?? []).filter((other) => overlap(other) > 0.4);
  return near.sort((a, b) => b.score - a.score)[0];
}

function drawRoi() {
  const detection = state.detections[state.chosen];
  $("other").hidden = !state.sample || !detection;
  if ($("other").hidden) return;
  const found = matchOf(detection), context = $("roi").getContext("2d");
  context.clearRect(0, 0, 28, 28);
  $("roi").hidden = !found;
  if (!found) return say("roi-text", "Mask R-CNN has not found this object.");
  const image = context.createImageData(28, 28), bytes = atob(found.mask);
  for (let i = 0; i < bytes.length; i++) {
    const gray = 255 - bytes.charCodeAt(i);
    image.data.set([gray, gray, gray, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  const [x1, y1, x2, y2] = found.box;
  $("roi").style.aspectRatio = `${(x2 - x1) * state.pixels.width} / ${(y2 - y1) * state.pixels.height}`;
  say("roi-text", `${title(found)}, of its own box (IoU ${iou(found.box, detection.box).toFixed(2)} with YOLACT's): 28 x 28 probabilities, black is 1.`);
}

// ---- lessons: an object of a sample, and what to move

async function teach(lesson) {
  const sample = globalThis.vocsegSamples.pictures.find((picture) => picture.name === lesson.picture);
  await openSample(sample);
  const overlaps = state.detections.map((d) => (d.label === lesson.label ? iou(d.box, lesson.box) : 0));
  const index = overlaps.indexOf(Math.max(...overlaps));
  if (state.detections[index].score < Number($("score").value)) {
    $("score").value = Math.floor(20 * state.detections[index].score) / 20;
    listDetections();
  }
  choose(index);
  const before = measure(currentMask(currentSum()));
  if (lesson.crop !== undefined) state.crop = lesson.crop;
  if (lesson.enlarge) {
    const [x1, y1, x2, y2] = state.box, dx = (x2 - x1) * lesson.enlarge / 2, dy = (y2 - y1) * lesson.enlarge / 2;
    state.box = [x1 - dx, y1 - dy, x2 + dx, y2 + dy].map((v) => clamp(v, 0, 1));
  }
  showControls();
  draw();
  const after = measure(currentMask(currentSum())), of = (part) => `${percent(before[part])} to ${percent(after[part])}`;
  const grown = `${(after.all / Math.max(1, before.all)).toFixed(1)} times as large`;
  say("lesson", lesson.text.replace("{outside}", of("outside")).replace("{others}", of("onOthers")).replace("{grown}", grown));
}

// ---- events

function problem(text) {
  say("problem", text);
}

// Run one thing at a time; what goes wrong is one sentence.
let busy = Promise.resolve();
function attempt(action, isNew = true) {
  if (state.failed) return busy;
  busy = busy.then(async () => {
    if (isNew) problem("");
    await action();
  }).catch((error) => problem(error.message));
  return busy;
}

async function openSample(sample) {
  stopWebcam();
  const picture = new Image();
  picture.src = sample.source;
  await picture.decode();
  await show(picture, sample.name, sample);
}

function openFile(file) {
  return attempt(async () => {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch {
      throw new Error(`${file.name} is not a picture that this browser can read.`);
    }
    stopWebcam();
    await show(bitmap, file.name);
  });
}

function stopWebcam() {
  if (!state.webcam) return;
  say("status", `${state.network.name}: the last picture of the webcam.`);
  state.webcam.getTracks().forEach((track) => track.stop());
  state.webcam = null;
  $("webcam").setAttribute("aria-pressed", "false");
  draw();
}

// Frame after frame, until the button is pressed again: the last one stays, to be looked into.
async function startWebcam() {
  if (state.webcam) return stopWebcam();
  if (!navigator.mediaDevices?.getUserMedia) throw new Error("This browser lets no page opened like this use a webcam.");
  try {
    state.webcam = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 } });
  } catch (error) {
    throw new Error(`No webcam: ${error.message || error.name}.`);
  }
  $("webcam").setAttribute("aria-pressed", "true");
  state.webcam.getVideoTracks()[0].addEventListener("ended", () => {
    stopWebcam();
    problem("The webcam has stopped.");
  });
  const video = document.createElement("video");
  Object.assign(video, { srcObject: state.webcam, muted: true, playsInline: true });
  await video.play();
  const next = async () => {
    if (!state.webcam) return;
    video.width = video.videoWidth;
    video.height = video.videoHeight;
    await show(video, "webcam");
    requestAnimationFrame(() => attempt(next, false));
  };
  requestAnimationFrame(() => attempt(next, false));
}

const ALL_EDGES = [0, 1, 2, 3];

// A box that is moved, of the same size, or some of its edges, up to the picture's and the opposite edge.
function movedBox(box, dx, dy, moved = ALL_EDGES) {
  const of = (i) => (i % 2 ? dy : dx), opposite = (i) => box[(i + 2) % 4];
  const room = (i) => clamp(of(i), Math.min(0, -box[i % 2]), Math.max(0, 1 - box[2 + (i % 2)]));
  return box.map((edge, i) => {
    if (moved.length === 4) return edge + room(i);
    if (!moved.includes(i)) return edge;
    const [low, high] = i < 2 ? [0, opposite(i) - SMALLEST_CROP] : [opposite(i) + SMALLEST_CROP, 1];
    return clamp(edge + of(i), Math.min(low, high), Math.max(low, high));
  });
}

function setBox(box) {
  state.box = box;
  showControls();
  touched();
}

// A lesson's text is of what it set.
function touched() {
  say("lesson", "");
  draw();
}

function listenToBox() {
  const canvas = $("sum");
  let start = null;
  const position = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (state.chosen < 0) return;
    const point = position(event), { box } = state;
    const near = (i) => {
      const across = (i + 1) % 2, size = box[2 + (i % 2)] - box[i % 2];
      const beside = point[across] > box[across] - 0.04 && point[across] < box[2 + across] + 0.04;
      return beside && Math.abs(box[i] - point[i % 2]) < Math.min(0.04, size / 4);
    };
    const edgesNear = ALL_EDGES.filter(near);
    start = { point, box, moved: edgesNear.length ? edgesNear : ALL_EDGES };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = position(event), { point, box, moved } = start;
    setBox(movedBox(box, x - point[0], y - point[1], moved));
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { start = null; });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step || state.chosen < 0) return;
    event.preventDefault();
    setBox(movedBox(state.box, step[0] / 80, step[1] / 80, event.shiftKey ? [2, 3] : ALL_EDGES));
  });
}

const edges = [];

function buildControls() {
  for (const name of ["left", "top", "right", "bottom"]) {
    const row = add($("edges"), "div", { class: "slider" }), i = edges.length;
    add(row, "label", { for: name }, `crop: ${name}`);
    edges.push(add(row, "input", { type: "range", id: name, min: 0, max: 1, step: 0.005 }));
    add(row, "output", { for: name, "aria-live": "off" });
    edges[i].addEventListener("input", () => {
      const by = Number(edges[i].value) - state.box[i];
      setBox(movedBox(state.box, by, by, [i]));
    });
  }
  const set = (id, change) => $(id).addEventListener("input", () => { change($(id)); touched(); });
  set("crop", (box) => { state.crop = box.checked; });
  set("threshold", (range) => { state.threshold = Number(range.value); });
  set("count", (range) => { state.count = Number(range.value); });
  set("score", () => { if (state.network) { listDetections(); choose(shown().length ? Math.min(Math.max(state.chosen, 0), shown().length - 1) : -1); } });
  $("reset").addEventListener("click", () => { if (state.network) reset(); });
  $("file").addEventListener("change", () => { if ($("file").files.length) openFile($("file").files[0]); $("file").value = ""; });
  $("webcam").addEventListener("click", () => attempt(startWebcam));
  $("stage").addEventListener("click", (event) => {
    if (!state.pixels) return;
    const frame = $("stage").getBoundingClientRect(), { width, height } = state.pixels;
    const x = Math.floor((event.clientX - frame.left) / frame.width * width), y = Math.floor((event.clientY - frame.top) / frame.height * height);
    const hit = shown().findIndex((detection) => predictedMask(detection)[y * width + x]);
    if (hit >= 0) choose(hit);
  });
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      $("stage").classList.toggle("over", name.startsWith("drage") || name === "dragover");
      if (name !== "drop") return;
      if (event.dataTransfer.files.length) openFile(event.dataTransfer.files[0]);
      else problem("What was dropped is no file: drop a picture's file.");
    });
  }
  listenToBox();
}

async function start() {
  buildControls();
  state.network = await startNetwork().catch((error) => {
    say("status", "");
    state.failed = true;
    for (const control of document.querySelectorAll("button, input")) control.disabled = true;
    throw new Error(`The model could not be loaded: ${error.message || error}`);
  });
  say("status", `${state.network.name}: ready for a picture.`);
  const { pictures, lessons } = await loadPart("build/samples.js", "vocsegSamples");
  for (const sample of pictures) {
    const button = add($("samples"), "button", { type: "button", "aria-label": `picture ${sample.name}` });
    add(button, "img", { src: sample.source, alt: "" });
    button.addEventListener("click", () => attempt(() => openSample(sample)));
  }
  for (const lesson of lessons) {
    add($("lessons"), "button", { type: "button" }, lesson.title).addEventListener("click", () => attempt(() => teach(lesson)));
  }
  await openSample(pictures[0]);
}

attempt(start);
