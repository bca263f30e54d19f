// Writes the page with its program and onnxruntime's WASM in it, and a place for the model, in two kinds:
// dist/page.html for a model that is inside the page, and dist/page_beside.html for one in files beside it, whose
// runtime can also use WebGPU and is twice as large.
// naruto_add.export.demo_template finds the pages, and recomputes the hash of their sources.
import { createHash } from "node:crypto";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const folder = dirname(fileURLToPath(import.meta.url));
const read = (...parts) => readFile(join(folder, ...parts), "utf8");
const runtime = join(folder, "node_modules", "onnxruntime-web");

async function sourcesHash() {
  const names = ["build.mjs", "package-lock.json", ...(await readdir(join(folder, "src"))).map((name) => `src/${name}`)];
  const hash = createHash("sha256");
  for (const name of names.sort()) hash.update(`${name}\n`).update(await readFile(join(folder, name)));
  return hash.digest("hex");
}

async function program(kind) {
  const result = await build({
    entryPoints: [join(folder, "src", "main.js")],
    bundle: true,
    format: "esm",
    target: "es2022",
    alias: { "onnxruntime-web/wasm": `onnxruntime-web/${kind.runtime}` },
    minify: true,
    legalComments: "none", // the licences are named in the page
    write: false,
    logLevel: "warning",
  });
  return result.outputFiles[0].text.replaceAll("</script", "<\\/script");
}

async function wasm(kind) {
  const binary = await readFile(join(runtime, "dist", kind.wasm));
  return gzipSync(binary, { level: 9 }).toString("base64");
}

// `connections` is what the page may fetch, as its Content-Security-Policy names it.
const kinds = [
  { name: "page.html", runtime: "wasm", wasm: "ort-wasm-simd-threaded.wasm", connections: "'none'" },
  { name: "page_beside.html", runtime: "webgpu", wasm: "ort-wasm-simd-threaded.asyncify.wasm", connections: "'self'" },
];
const [sources, style, frame] = [await sourcesHash(), await read("src", "style.css"), await read("src", "page.html")];
await mkdir(join(folder, "dist"), { recursive: true });
for (const kind of kinds) {
  const { connections } = kind;
  const parts = { sources, style, connections, program: await program(kind), wasm: await wasm(kind) };
  const page = frame.replace(/\{\{(\w+)\}\}/g, (_, name) => parts[name]);
  await writeFile(join(folder, "dist", kind.name), page);
  console.log(`dist/${kind.name}: ${(page.length / 2 ** 20).toFixed(1)} MiB`);
}
