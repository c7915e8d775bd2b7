// Sends messages to the bench, in order, and again where one was lost on the way.

/** The bench knows this page no more, or another tab has gone on with its work. */
export class Superseded extends Error {}

/** The bench cannot be reached, or refuses a message for good. */
export class Refused extends Error {}

const GIVE_UP_MS = 120_000, SLOWEST_MS = 5_000;
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function post(kind, text) {
  const response = await fetch(kind, { method: "POST", body: text, cache: "no-store", headers: { "Content-Type": "application/json" } });
  const answer = await response.json();
  if (response.ok) return answer;
  if (response.status === 409) throw new Superseded(answer.error);
  if (response.status === 429 || response.status >= 500) throw new Error(answer.error);
  throw new Refused(answer.error || `The bench answered ${response.status}`);
}

/**
 * Sends one message and returns the bench's answer; what fails on the way is sent again, more and more slowly.
 *
 * @param lost called with true while the bench cannot be reached, and with false when it answers again.
 */
export async function send(kind, body, lost = () => {}) {
  const text = JSON.stringify(body), until = Date.now() + GIVE_UP_MS;
  for (let pause = 250; ; pause = Math.min(2 * pause, SLOWEST_MS)) {
    try {
      const answer = await post(kind, text);
      lost(false);
      return answer;
    } catch (error) {
      if (error instanceof Superseded || error instanceof Refused) throw error;
      if (Date.now() > until) throw new Refused("The bench cannot be reached any more");
      lost(true);
      await wait(pause);
    }
  }
}
