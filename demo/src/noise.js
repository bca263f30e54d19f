// Standard normal noise as torch.randn draws it on the CPU, so that a seed gives the same picture as in Python.

const SIZE = 624;
const SHIFT = 397;

// The Mersenne Twister of 32 bits (Matsumoto and Nishimura, 1998).
class MersenneTwister {
  constructor(seed) {
    this.state = new Uint32Array(SIZE);
    this.state[0] = seed;
    for (let i = 1; i < SIZE; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.position = SIZE;
  }

  next() {
    if (this.position === SIZE) this.twist();
    let word = this.state[this.position++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  twist() {
    const state = this.state;
    for (let i = 0; i < SIZE; i++) {
      const joined = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + SHIFT) % SIZE] ^ (joined >>> 1) ^ (joined & 1 ? 0x9908b0df : 0);
    }
    this.position = 0;
  }
}

const GROUP = 16; // torch transforms 16 values at a time: the first half are radii, the second half angles

// The values of torch.randn(size, generator=torch.Generator().manual_seed(seed)), for at least 16 values.
export function noise(size, seed) {
  const generator = new MersenneTwister(seed);
  const uniform = () => (generator.next() & 0xffffff) / 2 ** 24;
  const values = Float32Array.from({ length: size }, uniform);
  for (let first = 0; first + GROUP <= size; first += GROUP) toNormal(values.subarray(first, first + GROUP));
  if (size % GROUP) {
    const last = values.subarray(size - GROUP); // torch draws the last group again
    last.set(Float32Array.from(last, uniform));
    toNormal(last);
  }
  return values;
}

// The Box-Muller transform.
function toNormal(values) {
  for (let i = 0; i < GROUP / 2; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - values[i]));
    const angle = 2 * Math.PI * values[i + GROUP / 2];
    values[i] = radius * Math.cos(angle);
    values[i + GROUP / 2] = radius * Math.sin(angle);
  }
}
