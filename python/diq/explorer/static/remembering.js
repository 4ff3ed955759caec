// The view in the address, behind the `#` that no server is sent: a reload, or a bookmark, shows it again.

// milliseconds without another change after which it is written: browsers limit how often an address may change
const RESTS = 150;

let timer = 0;

export function remember(view) {
  clearTimeout(timer);
  timer = setTimeout(() => history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(view))}`), RESTS);
}

export function forget() {
  clearTimeout(timer);
  history.replaceState(null, "", "/");
}

/** What was remembered, whatever it is: whoever made the address may have written anything. Null where nothing was. */
export function remembered() {
  const text = location.hash.slice(1);
  return text ? JSON.parse(decodeURIComponent(text)) : null;
}
