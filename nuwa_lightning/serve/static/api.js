// The server's answers; an error is one line.
export async function get(path) {
  return answer(await fetch(path));
}

export async function post(path, body = {}) {
  return answer(await fetch(path, {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body)}));
}

export async function upload(file) {
  const path = `/api/images?name=${encodeURIComponent(file.name)}`;
  return answer(await fetch(path, {method: "POST", headers: {"content-type": file.type || "image/png"}, body: file}));
}

async function answer(response) {
  const text = await response.text();
  let found = {error: text};
  try { found = JSON.parse(text); } catch { /* a line of the guard */ }
  if (!response.ok) throw new Error(found.error || `the server answers ${response.status}`);
  return found;
}

// Calls handlers[name](data) for each event, for as long as the page is open.
export function listen(handlers, lost) {
  const source = new EventSource("/api/events");
  for (const [name, act] of Object.entries(handlers)) {
    source.addEventListener(name, event => act(JSON.parse(event.data)));
  }
  source.onerror = lost;
}
