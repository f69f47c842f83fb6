// What the web pages share. They use no library and load no files from other hosts.

export const { item } = document.body.dataset; // what one image shows, such as "sign"
export const byId = (id) => document.getElementById(id);

// Stores a key until the tab is closed, or until the page is left if the browser blocks storage.
export const kept = (() => {
  try {
    return sessionStorage;
  } catch {
    return {};
  }
})();

export function element(tag, content = "", kind = "") {
  const made = document.createElement(tag);
  made.append(content);
  made.className = kind;
  return made;
}

/** Returns an element with a name of any language, whose direction does not change that of the text around it. */
export function named(tag, name, kind = "") {
  return Object.assign(element(tag, name, kind), { dir: "auto" });
}

/** Formats a probability, but never as 0 or 100 %, because the model is never certain. */
export function percent(share) {
  if (share < 0.0005) return "< 0.1 %";
  return share < 0.9995 ? `${(100 * share).toFixed(1)} %` : "> 99.9 %";
}

/** Shows a status message. The kind `heard` is for screen readers only, because the page already shows the text. */
export function say(words, kind = "") {
  byId("status").className = kind;
  byId("status").textContent = words;
}
