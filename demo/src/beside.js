// A model in files beside the page. Browsers let no page that is a file read its neighbours, so a person chooses or
// drops them; a page on a server fetches them.

const SIDE = "sampler.json"; // small, so that it is asked for first

// The names of a model's files and their sizes in bytes, by the name of the folder that they are exported to, and the
// model's id, which sampler.json has too: files of another model may have the same names and sizes.
export class Expected {
  constructor(folders, id) {
    this.id = id;
    this.folders = Object.entries(folders).sort((one, other) => total(one[1]) - total(other[1])); // the smallest first
  }

  get names() {
    return this.folders.map(([name]) => name);
  }

  get smallestMib() {
    return Math.ceil(total(this.folders[0][1]) / 2 ** 20);
  }

  // What `Model.load` reads, from chosen files: those of the smallest folder of which all are there.
  // Throws an error that says what is wrong with the others.
  async choose(files) {
    const groups = grouped(files);
    for (const [, sizes] of this.folders) {
      for (const group of groups.values()) {
        const found = new Map(group.map((file) => [file.name, file]));
        const isComplete = Object.entries(sizes).every(([name, size]) => found.get(name)?.size === size);
        if (isComplete && this.isId(await found.get(SIDE).text())) return chosen(found);
      }
    }
    throw new Error(this.complaint(files));
  }

  complaint(files) {
    const [name, sizes] = this.folders.find(([, sizes]) => files.some((file) => file.name in sizes)) ?? [];
    if (!name) return `These are not the model's files. Choose the folder ${this.names.join(" or ")} next to this page.`;
    const missing = Object.keys(sizes).filter((item) => !files.some((file) => file.name === item));
    if (missing.length) return `The folder is not complete: ${missing.join(", ")} is missing.`;
    return "These files belong to another model than this page. Choose the folder that was exported with the page.";
  }

  // Whether this sampler.json is that of the page's model.
  isId(sampler) {
    try {
      return JSON.parse(sampler).id === this.id;
    } catch {
      return false;
    }
  }

  // What `Model.load` reads, from the page's server.
  async fetched() {
    for (const [folder, sizes] of this.folders) {
      const answer = await fetch(`${folder}/${SIDE}`);
      if (!answer.ok) continue;
      if (this.isId(await answer.text())) return reader(sizes, (name) => fetchBytes(`${folder}/${name}`));
      throw new Error(`The folder ${folder} on the server belongs to another model than this page. Export both again.`);
    }
    throw new Error(`The folder ${this.names.join(" or ")} is not next to this page on its server.`);
  }
}

function chosen(found) {
  const sizes = Object.fromEntries([...found].map(([name, file]) => [name, file.size]));
  return reader(sizes, async (name) => new Uint8Array(await found.get(name).arrayBuffer()));
}

function reader(sizes, read) {
  const weights = async (name) => {
    const path = `${name}.data`;
    return path in sizes ? [{ path, data: await read(path) }] : [];
  };
  return { read, weights };
}

async function fetchBytes(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`The server does not give ${address} (${answer.status})`);
  return new Uint8Array(await answer.arrayBuffer());
}

// The files that were dropped, also those of folders. Chromium reads no entries of folders in a page that is a file, but
// handles; other browsers have no handles.
export async function dropped(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry());
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files];
  if (!items[0].getAsFileSystemHandle) return flat(entries.map((entry) => filesOfEntry(entry)));
  return flat(items.map(async (item) => filesOfHandle(await item.getAsFileSystemHandle())));
}

async function filesOfHandle(handle, folder = "") {
  if (handle.kind === "file") return [placed(await handle.getFile(), folder)];
  const found = [];
  for await (const item of handle.values()) found.push(filesOfHandle(item, `${folder}/${handle.name}`));
  return flat(found);
}

async function filesOfEntry(entry, folder = "") {
  if (entry.isFile) return [placed(await new Promise((resolve, reject) => entry.file(resolve, reject)), folder)];
  const found = [];
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return flat(found); // a reader gives some entries at a time, and none at the end
    found.push(...some.map((item) => filesOfEntry(item, `${folder}/${entry.name}`)));
  }
}

async function flat(promises) {
  return (await Promise.all(promises)).flat();
}

function placed(file, folder) {
  file.folder = folder;
  return file;
}

function folderOf(file) {
  return file.folder ?? file.webkitRelativePath?.replace(/[^/]*$/, "") ?? "";
}

function grouped(files) {
  const groups = new Map();
  for (const file of files) groups.set(folderOf(file), [...(groups.get(folderOf(file)) ?? []), file]);
  return groups;
}

function total(sizes) {
  return Object.values(sizes).reduce((sum, size) => sum + size, 0);
}
