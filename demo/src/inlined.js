// Files inside the page: gzip in base64, each in a script element that no browser runs.

// What `Model.load` reads: the files of a model in the page, which refer to no others.
export const inlinedFiles = { read: inlined, weights: async () => [] };

// The bytes of a file. Its text is removed from the page, which frees memory.
export async function inlined(name) {
  const element = document.querySelector(`script[data-file="${name}"]`);
  const compressed = fromBase64(element.textContent.trim());
  element.remove();
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}
