// The page's work: it comes to the bench, runs each file on each backend in a worker, and sends what the worker tells.

import { Refused, Superseded, send } from "./outbox.js";
import * as view from "./view.js";

const SIGN_MS = 3_000;

/** Returns a random number of 128 bits, in hexadecimal. */
function drawId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns this tab's number, which it keeps when it is loaded again. */
function visitId() {
  const key = `pocketvit-visit ${location.pathname}`;
  try {
    const kept = sessionStorage.getItem(key) || drawId();
    sessionStorage.setItem(key, kept);
    return kept;
  } catch {
    return drawId(); // a browser that keeps nothing comes as another device when it is loaded again
  }
}

const short = (text) => String(text || "").replace(/[\x00-\x1f]/g, " ").slice(0, 300);

const SOFTWARE = /swiftshader|llvmpipe|basic render/i;

async function findGpu() {
  if (!navigator.gpu) return null;
  try {
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) return null;
    const info = adapter.info || {};
    const words = `${info.architecture} ${info.description} ${info.device}`;
    const software = Boolean(info.isFallbackAdapter || adapter.isFallbackAdapter) || SOFTWARE.test(words);
    const [vendor, architecture, description] = [info.vendor, info.architecture, info.description].map(short);
    return { vendor, architecture, description, software };
  } catch {
    return null;
  }
}

/** Returns whether WebAssembly has relaxed SIMD, by a module of one instruction of it. */
const hasRelaxedSimd = () => WebAssembly.validate(Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
]));

async function findFacts() {
  const agent = navigator.userAgentData;
  const more = agent && agent.getHighEntropyValues ? await agent.getHighEntropyValues(["model"]).catch(() => ({})) : {};
  return {
    user_agent: short(navigator.userAgent),
    name: short(new URLSearchParams(location.search).get("name")),
    model: short(more.model),
    platform: short((agent && agent.platform) || navigator.platform),
    cores: navigator.hardwareConcurrency || null,
    memory_gib: navigator.deviceMemory || null,
    secure: isSecureContext,
    isolated: self.crossOriginIsolated === true,
    relaxed_simd: hasRelaxedSimd(),
    gpu: await findGpu(),
  };
}

class Bench {
  constructor(job, visit, facts) {
    Object.assign(this, { job, visit, facts, stage: null, lost: false, over: false });
    this.post = (kind, body) => send(kind, { visit, ...body }, (lost) => this.noteLost(lost));
  }

  noteLost(lost) {
    if (lost !== this.lost) document.body.classList.toggle("lost", (this.lost = lost));
    if (lost) view.say("The bench does not answer", "This page asks again until it does.");
  }

  /** Shows and tells what is done, at most every few seconds. */
  startSigns() {
    const timer = setInterval(() => {
      if (this.over) clearInterval(timer);
      else if (this.stage) this.post("sign", this.stage).catch((error) => { if (error instanceof Superseded) this.end(error); });
    }, SIGN_MS);
  }

  end(error) {
    this.over = true;
    if (this.worker) this.worker.terminate();
    if (!(error instanceof Superseded)) return view.say("The bench has ended", error.message);
    const why = `The bench says: ${error.message}. Another tab may have gone on, or the bench has ended.`;
    return view.say("This page is not needed any more", why);
  }

  /** Runs one file on one backend and returns what the bench says of it. */
  async part(index, backend) {
    const key = { file: index, backend, attempt: drawId() };
    const begun = await this.post("begin", key);
    if (begun.ended) return begun;
    const batches = [], outputs = [];
    let posts = Promise.resolve(), hidden = document.hidden;
    const queue = (kind, body) => { posts = posts.then(() => this.post(kind, { ...key, ...body })); posts.catch(() => {}); };
    const noteHidden = () => { hidden = hidden || document.hidden; };
    document.addEventListener("visibilitychange", noteHidden);
    try {
      const end = await this.run(index, backend, (told) => {
        if (told.kind === "times") queue("times", batches[batches.push({ sequence: batches.length, warmup: told.warmup, values: told.values }) - 1]);
        else queue("outputs", outputs[outputs.push({ first: told.first, outputs: told.outputs }) - 1]);
      });
      await posts;
      if (end.kind === "failed") return await this.post("failed", { ...key, what: end.what });
      const { kind, ...found } = end;
      return await this.hand({ ...key, ...found, hidden, batches: batches.length }, key, batches, outputs);
    } finally {
      document.removeEventListener("visibilitychange", noteHidden);
    }
  }

  /** Tells that a part is done, and sends again what the bench misses of it. */
  async hand(done, key, batches, outputs) {
    for (let tries = 0; tries < 5; tries++) {
      const answer = await this.post("done", done);
      if (answer.kept) return answer;
      const missing = new Set(answer.pictures);
      for (const number of answer.batches) await this.post("times", { ...key, ...batches[number] });
      for (const own of outputs) if (own.outputs.some((_, i) => missing.has(own.first + i))) await this.post("outputs", { ...key, ...own });
    }
    throw new Refused("The bench misses values that were sent again and again");
  }

  /** Runs a worker to its end; one that gives no sign for too long is ended. */
  run(index, backend, take) {
    return new Promise((resolve, reject) => {
      const worker = (this.worker = new Worker("worker.js"));
      let seen = Date.now();
      const finish = (settle, value) => { clearInterval(watch); worker.terminate(); this.worker = null; settle(value); };
      const watch = setInterval(() => {
        if (this.over) finish(reject, new Superseded("the bench has ended"));
        else if (Date.now() - seen > this.job.silence_s * 1000) finish(resolve, { kind: "failed", what: `It gave no sign for ${this.job.silence_s} s` });
      }, 1000);
      worker.onerror = (event) => finish(resolve, { kind: "failed", what: short(event.message) || "Its worker could not be started" });
      worker.onmessage = ({ data }) => {
        seen = Date.now();
        if (data.kind === "stage") {
          const { stage, done = 0, total = 0 } = data;
          this.stage = { stage: `${this.job.files[index].name} on ${backend}: ${stage}`.slice(-200), done, total };
          this.show(index, backend, { stage, done, total });
        } else if (data.kind === "done" || data.kind === "failed") finish(resolve, data);
        else take(data);
      };
      const software = backend === "webgpu" && this.facts.gpu.software;
      worker.postMessage({ index, backend, job: this.job, timed: !software });
    });
  }

  async work(hello) {
    view.label(hello.label);
    this.show = view.cards(this.job.files, hello.backends);
    const ended = new Map(hello.ended.map((own) => [`${own.file} ${own.backend}`, own]));
    const parts = this.job.files.flatMap((_, file) => hello.backends.map((backend) => ({ file, backend })));
    let wrong = 0, failed = 0;
    for (const [done, { file, backend }] of parts.entries()) {
      if (this.over) return;
      view.say(`Measuring ${done + 1} of ${parts.length}`, "Keep this page in front and the screen on until it is done.");
      view.meter(done / parts.length);
      const found = ended.get(`${file} ${backend}`) || await this.part(file, backend);
      this.show(file, backend, found);
      if (found.wrong) view.alarm(`WRONG ANSWERS: ${this.job.files[file].name} on ${backend}: ${found.wrong}.`);
      wrong += Boolean(found.wrong);
      failed += Boolean(found.failure);
    }
    const answer = await this.post("sign", { stage: "finished", finished: true });
    this.over = true;
    if (!answer.kept) throw new Refused("The bench misses a part of the results");
    view.meter(1);
    const trouble = [wrong && `${wrong} gave WRONG answers`, failed && `${failed} failed`].filter(Boolean).join(", ");
    view.say(trouble ? `Done, but ${trouble}` : "Done, thank you", "The results are on the computer that asked for them. You can close this page.");
  }
}

async function main() {
  let bench = null;
  try {
    const response = await fetch("bench/job", { cache: "no-store" });
    if (!response.ok) throw new Refused(`The bench answered ${response.status}`);
    const job = await response.json();
    const facts = await findFacts();
    view.facts(facts);
    const visit = visitId();
    // a driver that computes on the CPU says nothing of a graphics chip, so it answers only where that is asked for
    const usable = facts.gpu && (!facts.gpu.software || new URLSearchParams(location.search).get("webgpu") === "software");
    const backends = usable ? ["wasm", "webgpu"] : ["wasm"];
    bench = new Bench(job, visit, facts);
    const hello = await bench.post("hello", { backends, facts });
    if (navigator.wakeLock) navigator.wakeLock.request("screen").catch(() => {});
    bench.startSigns();
    await bench.work(hello);
  } catch (error) {
    if (bench) bench.end(error);
    else view.say("The bench cannot be reached", error.message);
  }
}

main();
