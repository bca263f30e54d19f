// Writes dist/page.html: the page with its program and onnxruntime's WASM in it, and a place for the model.
// naruto_add.export.demo_template finds the page, and recomputes the hash of its sources.
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

async function program() {
  const result = await build({
    entryPoints: [join(folder, "src", "main.js")],
    bundle: true,
    format: "esm",
    target: "es2022",
    minify: true,
    legalComments: "none", // the licences are named in the page
    write: false,
    logLevel: "warning",
  });
  return result.outputFiles[0].text.replaceAll("</script", "<\\/script");
}

async function wasm() {
  const binary = await readFile(join(runtime, "dist", "ort-wasm-simd-threaded.wasm"));
  return gzipSync(binary, { level: 9 }).toString("base64");
}

const parts = {
  sources: await sourcesHash(),
  style: await read("src", "style.css"),
  program: await program(),
  wasm: await wasm(),
};
const page = (await read("src", "page.html")).replace(/\{\{(\w+)\}\}/g, (_, name) => parts[name]);
await mkdir(join(folder, "dist"), { recursive: true });
await writeFile(join(folder, "dist", "page.html"), page);
console.log(`dist/page.html: ${(page.length / 2 ** 20).toFixed(1)} MiB`);
