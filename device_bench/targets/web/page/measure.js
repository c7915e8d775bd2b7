// Times an inference again and again: warm-up until it is steady, then as many values as the bench asks for.
"use strict";

const WINDOW = 5, STEADY = 0.05;
const STEPS_PER_VALUE = 50; // a value spans so many steps of the clock, which then matter by 2 %
const BATCH_S = 0.5, BATCH_VALUES = 200;

const now = () => performance.now() / 1000;

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Returns whether the newest window of values has a median near that of the window before. */
function isSteady(values) {
  if (values.length < 2 * WINDOW) return false;
  const before = median(values.slice(-2 * WINDOW, -WINDOW)), newest = median(values.slice(-WINDOW));
  return Math.abs(newest - before) <= STEADY * Math.min(newest, before);
}

/** Returns the step of the browser's clock, s; browsers round it against attacks by timing. */
function clockStep() {
  let least = Infinity;
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    let end = start;
    while (end === start) end = performance.now();
    least = Math.min(least, end - start);
  }
  return least / 1000;
}

async function timeOnce(run, count) {
  const start = now();
  for (let i = 0; i < count; i++) await run();
  return (now() - start) / count;
}

/** Lets messages of other threads be handled. */
const breathe = () => new Promise((resolve) => setTimeout(resolve, 0));

/**
 * Times `run`, and hands over the values in batches.
 *
 * @param run starts one inference and waits for its output.
 * @param sampling how many values, as in the bench's own Sampling.
 * @param batch called with each batch of values and whether they are of the warm-up.
 */
async function measure(run, sampling, batch) {
  const step = clockStep();
  let guess = Infinity;
  for (let i = 0; i < 3; i++) guess = Math.min(guess, await timeOnce(run, 5));
  guess = Math.max(guess, step / 5);
  const count = Math.max(1, Math.ceil((STEPS_PER_VALUE * step) / guess));
  const positive = async () => Math.max(await timeOnce(run, count), step / count / 2);
  const collect = async (warmup, enough) => {
    const values = [];
    let sent = 0, since = now();
    const hand = async () => {
      if (sent < values.length) batch(values.slice(sent), warmup, values.length);
      sent = values.length;
      await breathe();
      since = now();
    };
    while (!enough(values)) {
      values.push(await positive());
      if (now() - since >= BATCH_S || values.length - sent >= BATCH_VALUES) await hand();
    }
    await hand();
    return values;
  };
  const warm = await collect(true, (values) => values.length >= sampling.max_warmup || isSteady(values));
  const start = now();
  await collect(false, (values) => values.length >= sampling.max_samples
    || (values.length >= sampling.min_samples && now() - start >= sampling.seconds));
  return { steady: isSteady(warm), runs_per_value: count, resolution_s: step };
}
