// Questions to the server that sent this page, and nowhere else.

export class Refusal extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint || "";
  }
}

async function checked(response) {
  if (response.ok) return response;
  let said = {};
  try {
    said = await response.json();
  } catch {
    // a refusal in plain words
  }
  throw new Refusal(said.error || `the server answered ${response.status}`, said.hint);
}

async function send(path, options) {
  try {
    return await checked(await fetch(path, { credentials: "same-origin", ...options }));
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal("the server does not answer", "start `diq explore` again, and open the address that it prints");
  }
}

export async function facts() {
  return (await send("/api/facts", {})).json();
}

function post(name, body) {
  const headers = { "content-type": "application/json" };
  return send(`/api/${name}`, { method: "POST", headers, body: JSON.stringify(body) });
}

export async function ask(name, body) {
  return (await post(name, body)).json();
}

export async function download(name, body) {
  const response = await post(name, body);
  try {
    return await response.blob();
  } catch {
    throw new Refusal("the answer broke off in the middle: nothing is kept of it", "the command that serves this page says why");
  }
}

/** The facts of a view, and its counts. */
export async function view(body) {
  const buffer = await (await post("view", body)).arrayBuffer();
  const size = new DataView(buffer).getUint32(0, true);
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  return { told, counts: new Uint32Array(buffer, 4 + size) };
}

let running = 0;

/**
 * Calls `work` for the latest of many wishes: one at a time, and for what came meanwhile only once. It is given a
 * function that waits so many milliseconds, and tells whether no other wish came: at the first one it waits no longer.
 */
export function latest(work) {
  let wished = false;
  let busy = false;
  let wake = () => {};
  const rested = async (ms) => {
    let timer = 0;
    await new Promise((done) => {
      wake = done;
      timer = setTimeout(done, wished ? 0 : ms);
    });
    clearTimeout(timer);
    return !wished;
  };
  return async function wish() {
    wished = true;
    wake();
    if (busy) return;
    busy = true;
    answering(1);
    try {
      while (wished) {
        wished = false;
        await work(rested);
      }
    } finally {
      busy = false;
      answering(-1);
    }
  };
}

/** Says to whoever listens or waits whether what is shown is about to change. */
function answering(one) {
  running += one;
  document.body.setAttribute("aria-busy", String(running > 0));
}
