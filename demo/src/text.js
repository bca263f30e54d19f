// The inline code and the links of the model card, as nodes.

export function withCode(text) {
  return text.split(/(`+[^`]+`+|https:\/\/[^\s`]+)/).map((part) => {
    if (part.startsWith("https://")) return link(part);
    if (!part.startsWith("`")) return document.createTextNode(part);
    const code = document.createElement("code");
    code.textContent = part.replace(/^`+ ?| ?`+$/g, "");
    return code;
  });
}

function link(address) {
  const element = document.createElement("a");
  element.href = address;
  element.rel = "noreferrer";
  element.textContent = address;
  return element;
}

// The text as part of a file name: lower-case ASCII letters and digits, separated by hyphens.
export function slug(text) {
  const ascii = text.normalize("NFKD").replace(/[^\x00-\x7f]/g, "").toLowerCase();
  return ascii.replace(/[^a-z0-9]+/g, "-").slice(0, 60).replace(/^-|-$/g, "") || "picture";
}
