// PNG files with text in them. A canvas cannot write text, and some browsers alter what is read from one.

const SIGNATURE = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let value = index;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

// A file of 8-bit RGB pixels, with each entry of `text` as an iTXt chunk.
export async function png(rgb, width, height, text) {
  const stride = width * 3;
  const rows = new Uint8Array(height * (stride + 1)); // each row begins with its filter, which is 0: none
  for (let y = 0; y < height; y++) rows.set(rgb.subarray(y * stride, (y + 1) * stride), y * (stride + 1) + 1);
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0802); // 8 bits, RGB
  return new Blob(
    [
      SIGNATURE,
      chunk("IHDR", new Uint8Array(header.buffer)),
      ...Object.entries(text).map(([key, value]) => chunk("iTXt", utf8(`${key}\0\0\0\0\0${value}`))),
      chunk("IDAT", await deflated(rows)),
      chunk("IEND", new Uint8Array(0)),
    ],
    { type: "image/png" },
  );
}

function chunk(name, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(utf8(name), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function utf8(text) {
  return new TextEncoder().encode(text);
}
