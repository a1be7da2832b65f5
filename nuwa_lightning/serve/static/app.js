// The page: what is shown follows from the server's state, which is asked for anew after every event that says so.
import {get, listen, post, upload} from "./api.js";
import {Pad} from "./paint.js";
import {Viewer} from "./viewer.js";

const $ = id => document.getElementById(id);
const state = {model: null, canvases: [], jobs: new Map(), current: null, image: null, thumbs: new Map()};
let viewer, pad, asking = null, again = false;

function say(line, wrong = false) {
  $("say").textContent = line;
  $("say").classList.toggle("wrong", wrong);
}

// Runs what may fail; its error is told.
const told = act => async (...given) => {
  try { return await act(...given); } catch (error) { say(error.message, true); return null; }
};

const make = (tag, text = "", set = {}) => Object.assign(document.createElement(tag), {textContent: text}, set);

// -- the state
async function look() {
  if (asking) { again = true; return asking; }
  asking = (async () => {
    const found = await get("/api/state");
    Object.assign(state, {model: found.model, canvases: found.canvases, process: found.process});
    state.jobs = new Map(found.jobs.map(job => [job.id, job]));
    if (!viewer) begin();
    if (!state.canvases.some(each => each.id === state.current)) {
      const named = state.canvases.find(each => each.id === location.hash.slice(1)) || state.canvases.find(each => !each.error);
      choose(named ? named.id : null);
    }
    show();
  })();
  try { await asking; } finally { asking = null; }
  if (again) { again = false; await look(); }
}

const current = () => state.canvases.find(each => each.id === state.current && !each.error) || null;

function choose(id) {
  state.current = id;
  if (id) history.replaceState(null, "", `#${id}`);
  const canvas = current();
  if (canvas) {
    const form = $("steer").elements, {request} = canvas;
    for (const name of ["temperature", "top_k", "top_p"]) form[name].value = request[name] ?? form[name].value;
    form.seed.value = canvas.seed;
    form.prompt.value = (request.prompt || []).join(" ");
    $("step").value = canvas.patch[0] * Math.max(1, Math.round(256 / canvas.patch[0]));
  }
  $("candidates").hidden = true;
  show();
}

// -- what is shown
function show() {
  const canvas = current();
  viewer.show(canvas);
  $("empty").hidden = Boolean(canvas);
  for (const control of document.querySelectorAll("#tools button, #redo button")) control.disabled = !canvas;
  $("undo").disabled = !canvas || !canvas.undo && canvas.finished;
  $("frames").hidden = $("single-part").hidden = !canvas || canvas.frames < 2;
  if (canvas) {
    $("frame").max = canvas.frames - 1;
    $("frame").value = viewer.frame;
    showFrame();
    const suffixes = canvas.video ? [".mp4", ".gif", ".webp", ".frames"] : [".png", ".tif", ".webp", ".jpg", ".dzi", ".zarr"];
    if ($("suffix").options.length !== suffixes.length || $("suffix").value !== suffixes.find(s => s === $("suffix").value)) {
      $("suffix").replaceChildren(...suffixes.map(each => make("option", each)));
    }
  }
  showList();
  showAbout(canvas);
  showJobs();
}

function showList() {
  const focused = document.activeElement?.dataset?.id;
  $("list").replaceChildren(...state.canvases.map(canvas => {
    const item = make("li"), button = make("button", "", {type: "button"});
    button.dataset.id = canvas.id;
    button.setAttribute("aria-current", String(canvas.id === state.current));
    const label = make("span", canvas.name.replace(/\.canvas$/, ""));
    const [count, of] = canvas.patches || [];
    const detail = canvas.error || `${canvas.size.join("×")}${canvas.frames > 1 ? `, ${canvas.frames} frames` : ""}${canvas.finished ? "" : `, ${count} of ${of} patches`}`;
    label.append(make("small", detail, {className: canvas.error ? "wrong" : ""}));
    button.append(thumb(canvas), label);
    button.onclick = () => canvas.error ? say(canvas.error, true) : choose(canvas.id);
    item.append(button);
    return item;
  }));
  if (focused) $("list").querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
}

function thumb(canvas) {
  const element = state.thumbs.get(canvas.id) || make("canvas", "", {width: 128, height: 80});
  state.thumbs.set(canvas.id, element);
  const key = JSON.stringify([canvas.bounds, canvas.patches, canvas.edits]);
  if (!canvas.error && element.key !== key && (canvas.finished || !element.key)) {
    element.key = key;
    drawThumb(canvas, element).catch(() => { element.key = null; });
  }
  return element;
}

async function drawThumb(canvas, element) {
  const [left, top, right, bottom] = canvas.bounds, {side} = state.model, scale = Math.min(128 / (right - left), 80 / (bottom - top));
  const level = Math.max(0, Math.ceil(Math.log2(1 / scale) - 1)), size = side * 2 ** level, context = element.getContext("2d");
  context.clearRect(0, 0, 128, 80);
  for (let y = Math.floor(top / size); y * size < bottom; y++) for (let x = Math.floor(left / size); x * size < right; x++) {
    const response = await fetch(`/api/canvases/${canvas.id}/tiles/${level}/${x}/${y}`);
    if (response.status !== 200) continue;
    const bitmap = await createImageBitmap(await response.blob());
    context.drawImage(bitmap, (x * size - left) * scale, (y * size - top) * scale, size * scale, size * scale);
  }
}

function showAbout(canvas) {
  const said = canvas ? [["Size", `${canvas.size.join(" × ")} pixels`], ["Patches", `${canvas.patches.join(" of ")}, ${canvas.patch.join("×")} pixels each`],
    ["Task", canvas.task], ["Seed", canvas.seed], ["Prompt", (canvas.request.prompt || []).join("; ")], ["Closed axes", canvas.wrap],
    ["Edits", canvas.edits.map(edit => edit.grow ? `grown ${Object.entries(edit.grow).map(each => each.join(" ")).join(", ")}` : `${edit.patches} patches redone, seed ${edit.seed}`).slice(-8).join("; ")]] : [];
  said.push(["Model", state.model.name], ["Its process", state.process]);
  $("about").replaceChildren(...said.filter(([, value]) => value !== "" && value !== undefined).flatMap(([name, value]) => [make("dt", name), make("dd", String(value))]));
}

function showJobs() {
  const canvas = current(), jobs = [...state.jobs.values()];
  const shown = jobs.filter(job => ["queued", "running"].includes(job.state)).slice(0, 20).map(job => {
    const item = make("li"), [done, of] = job.patches;
    const bar = make("progress", "", {max: of || 1});
    if (of) bar.value = done;
    bar.setAttribute("aria-label", job.kind);
    const stop = make("button", "Stop", {type: "button", onclick: told(() => post(`/api/jobs/${job.id}/stop`))});
    item.append(make("span", `${job.kind}: ${job.state}${of ? `, ${done} of ${of}` : ""}`), bar, stop);
    return item;
  });
  if (canvas && !canvas.finished && !busy(canvas.id)) {
    const item = make("li", "This canvas is not finished. ");
    item.append(make("button", "Go on", {type: "button", onclick: told(() => edit("resume"))}));
    if (canvas.edits.length) item.append(make("button", "Take it back", {type: "button", onclick: told(() => edit("undo"))}));
    shown.push(item);
  }
  $("jobs").replaceChildren(...shown);
}

const busy = id => [...state.jobs.values()].some(job => job.canvas === id && ["queued", "running"].includes(job.state));

function showCandidates(job) {
  if (job.canvas !== state.current || !job.result.candidates || job.result.whole === undefined && job.state !== "running") return;
  const cards = job.result.candidates.map((seed, number) => {
    const card = make("figure");
    const image = make("img", "", {src: `/api/canvases/${job.canvas}/candidates/${number}?job=${job.id}`, alt: `candidate ${number + 1}, seed ${seed}`});
    const keep = make("button", `Keep ${number + 1} (seed ${seed})`, {type: "button", disabled: job.state === "running"});
    keep.onclick = told(async () => { await edit("keep", {number}); $("candidates").hidden = true; });
    card.append(image, keep);
    return card;
  });
  cards.push(make("button", "Keep none", {type: "button", onclick: () => { $("candidates").hidden = true; }}));
  $("candidates").replaceChildren(...cards);
  $("candidates").hidden = false;
  if (job.state !== "running") cards[0].querySelector("button").focus();
}

// -- what is done
const edit = (kind, body = {}) => post(`/api/canvases/${state.current}/${kind}`, body);

function steering() {
  const form = $("steer").elements, options = {};
  for (const name of ["temperature", "top_p"]) options[name] = Number(form[name].value);
  options.top_k = Number(form.top_k.value);
  if (state.model.text) {
    options.prompt = form.prompt.value.trim();
    if (options.prompt) options.guidance = Number(form.guidance.value);
  }
  return {seed: Number(form.seed.value), options};
}

const grow = told(async sides => {
  const steered = steering(), canvas = current();
  if (steered.seed === canvas.seed) delete steered.seed;
  await edit("grow", {...sides, ...steered});
});

// What is to be made again: what was painted, or the box of the form.
function part() {
  const form = $("redo").elements, {brush, canvas} = viewer;
  const box = brush.empty ? ["left", "top", "right", "bottom"].map(name => Number(form[name].value)) : brush.boxes(canvas.patch, canvas.bounds);
  return {box, frames: form.single.checked ? [viewer.frame, viewer.frame + 1] : null};
}

const redo = told(async () => {
  const form = $("redo").elements, steered = steering(), canvas = current();
  if (steered.seed === canvas.seed && form.count.value === "1") steered.seed = $("steer").elements.seed.value = canvas.seed + 1 + canvas.edits.length;
  await edit("redo", {...part(), count: Number(form.count.value), ...steered});
});

// How much is made again: that part, and all that was made by looking at it.
async function count() {
  $("corners").hidden = !viewer.brush.empty;
  clearTimeout(count.due);
  count.due = setTimeout(async () => {
    try {
      const {patches, of} = await edit("dependents", part()), {size} = viewer.brush.chosen;
      $("dependents").textContent = `${size ? `${size} painted, ` : ""}${patches} of ${of} patches are made again.`;
    } catch (error) { $("dependents").textContent = error.message; }
  }, 200);
}

function choosePart() {
  if (viewer.selected) ["left", "top", "right", "bottom"].forEach((name, n) => { $("redo").elements[name].value = viewer.selected[n]; });
  count();
}

function chooseTool(tool) {
  viewer.tool = viewer.tool === tool ? "" : tool;
  for (const id of ["box", "brush"]) $(id).setAttribute("aria-pressed", String(viewer.tool === id));
  $("view").classList.toggle("drawing", Boolean(viewer.tool));
  if (viewer.tool === "brush") viewer.moveBrush(0, 0);
  viewer.paint();
}

// -- frames
function setFrame(frame) {
  $("frame").value = frame;
  viewer.setFrame(Number($("frame").value));
  showFrame();
}

const showFrame = () => { $("frame-number").textContent = `${viewer.frame + 1} of ${viewer.canvas.frames}`; };

function play() {
  clearInterval(play.every);
  play.every = play.every ? undefined : setInterval(() => {
    if (!viewer.canvas || viewer.canvas.frames < 2) play();
    else if (viewer.store.idle) setFrame((viewer.frame + 1) % viewer.canvas.frames);
  }, 125);
  $("play").setAttribute("aria-pressed", String(Boolean(play.every)));
}

// Whoever looks beyond a side waits for what comes there.
function beyond() {
  const canvas = current();
  if (!$("endless").checked || !canvas || !canvas.finished || busy(canvas.id)) return;
  const [left, top, right, bottom] = viewer.seen, bounds = canvas.bounds, step = Number($("step").value);
  const wide = 0.05 * (right - left), high = 0.05 * (bottom - top);
  // A canvas smaller than the screen is seen beyond on both sides: it grows where more of nothing is seen.
  const more = (one, other, least) => one > least && one > other + 2 * least;
  if (more(right - bounds[2], bounds[0] - left, wide)) grow({right: step});
  else if (more(bounds[0] - left, right - bounds[2], wide)) grow({left: step});
  else if (more(bottom - bounds[3], bounds[1] - top, high)) grow({down: step});
  else if (more(bounds[1] - top, bottom - bounds[3], high)) grow({up: step});
}

const take = told(async file => {
  state.image = await upload(file);
  $("image-name").textContent = `${state.image.name}, ${state.image.size.join("×")}`;
  for (const id of ["expand", "forget-image"]) $(id).hidden = false;
  $("new-part").open = true;
  showPad("mask", state.image.size, await createImageBitmap(file));
});

// Holes are painted on an image, plans where there is none and the model reads them.
function showPad(kind, size, under = null) {
  const holes = kind === "mask";
  $("paint").hidden = holes ? size[0] * size[1] > 2 ** 24 : !state.model.plan;
  $("paint-name").textContent = holes ? "Paint holes, to be made anew" : "Paint a plan of the canvas";
  $("color-part").hidden = $("plan-part").hidden = holes;
  pad.begin(kind, size, under);
}

function forget() {
  state.image = null;
  $("image-name").textContent = $("file").value = "";
  for (const id of ["expand", "forget-image"]) $(id).hidden = true;
  showPad("plan", [256, 128]);
}

// -- the beginning
function begin() {
  const {model} = state;
  viewer = new Viewer($("view"), model, {
    part: choosePart,
    beyond: grow,
    moved: beyond,
  });
  Object.assign(window, {viewer});
  for (const id of ["prompt-part", "guidance-part"]) $(id).hidden = !model.text;
  for (const [name, value] of Object.entries(model.sampling)) $("steer").elements[name].value = value;
  $("strategy").textContent = `${model.pool}, ${model.direction}`;
  for (const button of document.querySelectorAll("[data-grow]")) button.onclick = () => grow({[button.dataset.grow]: Number($("step").value)});
  for (const button of document.querySelectorAll("[data-zoom]")) button.onclick = () => viewer.zoom(2 ** Number(button.dataset.zoom));
  for (const button of document.querySelectorAll("[data-copy]")) button.onclick = told(async () => {
    const lines = (await get(`/api/canvases/${state.current}/recipe`))[button.dataset.copy];
    await navigator.clipboard.writeText(lines);
    say("Copied.");
  });
  $("fit").onclick = () => viewer.fit();
  $("one").onclick = () => viewer.zoom(1 / viewer.scale);
  $("undo").onclick = told(() => edit("undo"));
  $("share").onclick = told(() => edit("export", {suffix: ".canvas.zip"}));
  $("export").onclick = told(() => edit("export", {suffix: $("suffix").value}));
  for (const id of ["box", "brush"]) $(id).onclick = () => chooseTool(id);
  $("brush-side").oninput = () => { viewer.brushSide = Number($("brush-side").value) || 1; };
  $("overlay").onchange = () => {
    $("legend").hidden = !$("overlay").checked;
    viewer.wave = $("overlay").checked ? state.wave : null;
    viewer.paint();
  };
  $("endless").onchange = beyond;
  $("frame").oninput = () => setFrame(Number($("frame").value));
  $("play").onclick = play;
  $("redo").oninput = () => {
    if (viewer.brush.empty) viewer.selected = part().box;
    viewer.paint();
    count();
  };
  $("redo").onsubmit = event => { event.preventDefault(); redo(); };
  $("steer").onsubmit = event => event.preventDefault();
  $("file").onchange = () => { if ($("file").files[0]) take($("file").files[0]); };
  $("forget-image").onclick = forget;
  pad = new Pad($("pad"), {size: $("pad-brush"), color: $("color")});
  $("wipe").onclick = () => pad.begin(pad.kind, [pad.ink.width, pad.ink.height], pad.kind === "mask" ? pad.under : null);
  $("plan").onchange = told(async () => {
    const image = $("plan").files[0] && await createImageBitmap($("plan").files[0]);
    if (image) showPad("plan", [256, Math.max(1, Math.round(256 * image.height / image.width))], image);
    $("plan").value = "";
  });
  forget();
  document.body.ondragover = event => { event.preventDefault(); $("drop").classList.add("over"); };
  document.body.ondragleave = () => $("drop").classList.remove("over");
  document.body.ondrop = event => {
    event.preventDefault();
    $("drop").classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  };
  $("new").onsubmit = told(async event => {
    event.preventDefault();
    const form = $("new").elements, number = name => Number(form[name].value), steered = steering();
    const what = state.image ? {image: state.image.id, expand: Object.fromEntries(["left", "right", "up", "down"].map(name => [name, number(name)]))}
      : {width: number("width"), height: number("height")};
    if (pad.touched) what[pad.kind] = (await upload(await pad.file())).id;
    const job = await post("/api/canvases", {name: form.name.value, ...what, ...steered});
    state.expected = job.canvas;
    forget();
  });
  document.addEventListener("keydown", keys);
}

function keys(event) {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || !current()) return;
  const arrows = {ArrowLeft: ["left", -1, 0], ArrowRight: ["right", 1, 0], ArrowUp: ["up", 0, -1], ArrowDown: ["down", 0, 1]};
  const acts = {"+": () => viewer.zoom(1.5), "=": () => viewer.zoom(1.5), "-": () => viewer.zoom(1 / 1.5), 0: () => viewer.fit(), 1: () => $("one").click(),
    b: () => $("box").click(), m: () => $("brush").click(), ",": () => setFrame(viewer.frame - 1), ".": () => setFrame(viewer.frame + 1), r: redo, u: () => $("undo").disabled || $("undo").click(), w: () => $("overlay").click(), Escape: () => { chooseTool(""); viewer.select(null); }};
  if (arrows[event.key]) {
    const [side, x, y] = arrows[event.key], far = 80 / viewer.scale;
    if (event.shiftKey) grow({[side]: Number($("step").value)});
    else if (event.target === $("view") && viewer.tool === "brush") viewer.moveBrush(x, y);
    else if (event.target === $("view") || event.target === document.body) viewer.pan(x * far, y * far);
    else return;
  } else if (event.key === " " && event.target === $("view") && viewer.tool === "brush") viewer.paintHere();
  else if (acts[event.key]) acts[event.key]();
  else return;
  event.preventDefault();
}

listen({
  all: told(async () => { viewer?.store.stale(null); await look(); say("Ready."); }),
  canvases: told(look),
  changed: told(async ({canvas, areas, shape}) => {
    if (canvas === state.current) {
      viewer.store.stale(areas, 16 * state.model.factor);
      viewer.paint();
    }
    if (shape) await look();
    if (state.expected === canvas && state.canvases.some(each => each.id === canvas)) { state.expected = null; choose(canvas); }
  }),
  job: told(async job => {
    state.jobs.set(job.id, job);
    showJobs();
    if (job.kind === "redo") showCandidates(job);
    if (job.state === "failed") say(job.error, true);
    if (job.state === "done") {
      say(`${job.kind}: done.`);
      if (job.kind === "export") {
        say(`Written to exports/${job.result.name}. `);
        $("say").append(make("a", "Download", {href: `/api/jobs/${job.id}/file`, download: ""}));
      }
    }
    if (["done", "stopped", "failed"].includes(job.state)) {
      state.wave = viewer.wave = null;
      await look();
      beyond();
    }
  }),
  worker: ({error}) => say(error, true),
  wave: wave => {
    state.jobs.set(wave.job.id, wave.job);
    showJobs();
    if (wave.job.canvas !== state.current) return;
    state.wave = wave;
    $("counts").textContent = `${wave.finished.length} in this wave, ${wave.alive.length} alive`;
    if ($("overlay").checked) { viewer.wave = wave; viewer.paint(); }
  },
}, () => say("The server does not answer: start it again; the page goes on by itself.", true));
