// Draws the page: a headline, an alarm, and a card for each file with a row for each backend.

const get = (id) => document.getElementById(id);
const BACKENDS = { wasm: "WebAssembly (CPU)", webgpu: "WebGPU (GPU)" };

function element(tag, classes, text = "") {
  const made = document.createElement(tag);
  made.className = classes;
  made.textContent = text;
  return made;
}

export const milliseconds = (seconds) => {
  const ms = seconds * 1000;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
};

export function say(headline, detail = "") {
  get("headline").textContent = headline;
  get("detail").textContent = detail;
}

export function meter(share) {
  get("meter").style.width = `${Math.round(100 * share)}%`;
}

export function alarm(text) {
  const place = get("alarm");
  place.hidden = false;
  place.append(element("div", "", text));
}

export function label(text) {
  get("label").textContent = text;
  document.title = `${text} · PocketViT bench`;
}

function chip(gpu) {
  const words = [gpu.vendor, gpu.architecture, gpu.description].filter(Boolean).join(" ");
  return `${words || "not told"}${gpu.software ? ", which computes on the CPU" : ""}`;
}

export function facts(found) {
  const rows = {
    Browser: found.user_agent,
    Device: found.model || found.platform || "not told",
    Cores: found.cores ?? "not told",
    Memory: found.memory_gib ? `${found.memory_gib} GiB or more` : "not told",
    "Graphics chip": found.gpu ? chip(found.gpu) : "no WebGPU here",
    Threads: found.isolated ? "yes" : "one: pages need https or localhost for more",
  };
  for (const [name, value] of Object.entries(rows)) get("facts").append(element("dt", "", name), element("dd", "", value));
}

/** Draws the cards and returns a function that shows the state of one file on one backend. */
export function cards(files, backends) {
  const rows = new Map();
  files.forEach((file, index) => {
    const card = element("article", "file");
    card.append(element("h2", "", file.name));
    card.append(element("p", "meta", `${(file.bytes / 1e6).toFixed(1)} MB · ${file.engine}`));
    for (const backend of backends) {
      const part = element("div", "part"), top = element("div", "top");
      const chip = element("span", "chip", "waiting"), time = element("div", "time"), words = element("p", "words");
      const bar = element("div", "meter small"), fill = element("div", "");
      top.append(element("span", "backend", BACKENDS[backend]), chip);
      bar.append(fill);
      part.append(top, time, words, bar);
      time.hidden = words.hidden = bar.hidden = true;
      card.append(part);
      rows.set(`${index} ${backend}`, { chip, time, words, bar, fill });
    }
    get("files").append(card);
  });
  return (index, backend, state) => show(rows.get(`${index} ${backend}`), state);
}

function show(row, state) {
  const bad = Boolean(state.failure || state.wrong);
  row.chip.className = `chip ${state.stage ? "run" : bad ? "bad" : "good"}`;
  row.chip.textContent = state.stage || (state.failure ? "failed" : state.wrong ? "WRONG ANSWERS" : "done");
  row.bar.hidden = !state.stage;
  row.fill.style.width = `${state.total ? (100 * state.done) / state.total : 0}%`;
  row.words.hidden = Boolean(state.stage);
  row.time.hidden = Boolean(state.stage) || !state.median_s;
  row.time.classList.toggle("void", bad);
  row.words.className = `words ${bad ? "bad" : ""}`;
  row.words.textContent = state.failure || (state.wrong ? `WRONG: ${state.wrong}.` : `It gives ${state.verdict}.`);
  if (state.median_s) row.time.replaceChildren(milliseconds(state.median_s), element("small", "", bad ? " not kept" : ` median of ${state.values} values`));
}
