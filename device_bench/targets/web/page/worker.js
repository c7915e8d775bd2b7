// Runs one file on one backend, in a thread of its own that ends with it. It is no module, since LiteRT.js loads its
// WebAssembly with importScripts.
"use strict";

importScripts("sha256.js", "engines.js", "measure.js");

const ARRAYS = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array };
const OUTPUT_BYTES = 300_000; // of one message; in base64 it stays well below the limit of the bench

const tell = (kind, body = {}) => self.postMessage({ kind, ...body });

/** What is downloaded is not what the bench described, or is not to be had. */
class WrongDownload extends Error {}

const TRIES = 20, PAUSE_MS = 500;

/** Downloads so many bytes, and tries again where the network fails or the bench asks for patience. */
async function fetchBytes(address, expected, stage) {
  for (let tries = 1; ; tries++) {
    try {
      return await fetchOnce(address, expected, stage);
    } catch (error) {
      if (error instanceof WrongDownload || tries === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      tell("stage", { stage: `${stage} again` });
    }
  }
}

async function fetchOnce(address, expected, stage) {
  const response = await fetch(address, { cache: "no-store" });
  if (response.status === 429) throw new Error("The bench asks for patience");
  if (!response.ok) throw new WrongDownload(`The bench answered ${response.status} to ${stage}`);
  const bytes = new Uint8Array(expected);
  const reader = response.body.getReader();
  let got = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (got + value.length > expected) {
      throw new WrongDownload(`The download is longer than ${expected} bytes: TAMPERED or changed`);
    }
    bytes.set(value, got);
    got += value.length;
    tell("stage", { stage, done: got, total: expected });
  }
  if (got !== expected) throw new WrongDownload(`The download has ${got} bytes in place of ${expected}: TAMPERED or cut short`);
  return bytes;
}

async function fetchModel(index, file) {
  const bytes = await fetchBytes(`bench/files/${index}`, file.bytes, "downloading");
  tell("stage", { stage: "checking" });
  const digest = await sha256(bytes);
  if (digest !== file.sha256) {
    throw new Error(`The download is TAMPERED or changed: its sha256 is ${digest.slice(0, 12)}… in place of ${file.sha256.slice(0, 12)}…`);
  }
  return bytes;
}

/** Returns the input for a picture (H, W, C) of bytes: each pixel through the table, repeated to fill the batch. */
function inputOf(file, picture) {
  const channels = file.table.length, pixels = picture.length / channels;
  const one = new ARRAYS[file.dtype](picture.length);
  for (let channel = 0; channel < channels; channel++) {
    const table = file.table[channel];
    for (let pixel = 0; pixel < pixels; pixel++) {
      const at = pixel * channels + channel;
      one[file.layout === "NHWC" ? at : channel * pixels + pixel] = table[picture[at]];
    }
  }
  const batch = file.shape[0];
  if (batch === 1) return one;
  const all = new ARRAYS[file.dtype](one.length * batch);
  for (let i = 0; i < batch; i++) all.set(one, i * one.length);
  return all;
}

function base64(values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x2000) text += String.fromCharCode(...bytes.subarray(i, i + 0x2000));
  return btoa(text);
}

/** Runs every picture and hands over the outputs; returns the first picture's input. */
async function answer(index, file, engine, job) {
  const size = file.shape.slice(1).reduce((a, b) => a * b, 1);
  let input = null, outputs = [], first = 0, bytes = 0;
  const hand = () => {
    if (outputs.length) tell("outputs", { first, outputs });
    first += outputs.length;
    outputs = [];
    bytes = 0;
  };
  for (let start = 0; start < file.pictures; start += job.pictures_at_once) {
    const count = Math.min(job.pictures_at_once, file.pictures - start);
    const pictures = await fetchBytes(`bench/pictures/${index}/${start}`, count * size, "fetching pictures");
    for (let i = 0; i < count; i++) {
      const own = inputOf(file, pictures.subarray(i * size, (i + 1) * size));
      input = input || own;
      const output = await engine.run(own);
      const one = output.slice(0, output.length / file.shape[0]);
      outputs.push(base64(one));
      bytes += one.byteLength;
      if (bytes >= OUTPUT_BYTES || outputs.length >= 64) hand();
      tell("stage", { stage: "answering", done: start + i + 1, total: file.pictures });
    }
  }
  hand();
  return input;
}

async function work({ index, backend, job, timed }) {
  const file = job.files[index];
  const bytes = await fetchModel(index, file);
  tell("stage", { stage: "loading" });
  const start = now();
  const engine = await openEngine(file, bytes, backend, job.threads);
  const load = now() - start;
  const blank = inputOf(file, new Uint8Array(file.shape.slice(1).reduce((a, b) => a * b, 1)).fill(127));
  const first = await timeOnce(() => engine.run(blank), 1);
  const input = await answer(index, file, engine, job);
  let found = { steady: true, runs_per_value: 1, resolution_s: clockStep() };
  if (timed) {
    found = await measure(() => engine.run(input), job.sampling, (values, warmup, done) => {
      tell("times", { values, warmup });
      const total = warmup ? job.sampling.max_warmup : job.sampling.max_samples;
      tell("stage", { stage: warmup ? "warming up" : "timing", done, total });
    });
  }
  const step = found.resolution_s;
  const times = { load_s: Math.max(load, step), first_run_s: Math.max(first, step) };
  tell("done", { ...found, ...times, threads: engine.threads, whole: engine.whole });
}

self.onmessage = async ({ data }) => {
  try {
    await work(data);
  } catch (error) {
    tell("failed", { what: String((error && error.message) || error).slice(0, 1500) });
  }
};
