// One workload on piscina, whose workers are threads; prints one JSON object. usage: node pools.mjs WORKLOAD
import { randomBytes } from 'node:crypto';
import { Piscina } from 'piscina';

const [work] = process.argv.slice(2);
const [kind, size] = work.split('_');
const now = () => Number(process.hrtime.bigint()) / 1e9;
const median = values => values.sort((a, b) => a - b)[values.length >> 1];
const TASKS = 100_000;

function pareto(count = 1000, seed = 7n, alpha = 1.3, least = 0.001, most = 0.25) {
  return Array.from({ length: count }, () => {
    seed = (seed * 6364136223846793005n + 1442695040888963407n) & ((1n << 64n) - 1n);
    const uniform = (Number(seed >> 11n) + 1) / (2 ** 53 + 1);
    return Math.min(most, least / uniform ** (1 / alpha));
  });
}

async function measure() {
  const start = now();
  const workers = kind === 'W4' || kind === 'W7' ? Number(size) : 2;
  const filename = new URL('tasks.cjs', import.meta.url).pathname;
  const pool = new Piscina({ filename, minThreads: workers, maxThreads: workers, maxQueue: Infinity });
  const run = (name, input) => pool.run(input, { name });
  if (kind === 'W4') {
    for (const seen = new Set(); seen.size < workers;) {
      const threads = await Promise.all(Array.from({ length: workers }, () => run('nap', 0.001)));
      threads.forEach(thread => seen.add(thread));
    }
    return (now() - start) * 1e3;
  }
  await Promise.all(Array.from({ length: 200 }, (_, n) => run('noop', n)));
  if (kind === 'W1') {
    const times = [];
    for (let n = 0; n < 2000; n++) {
      const start = now();
      await run('noop', n);
      times.push(now() - start);
    }
    return median(times) * 1e6;
  }
  if (kind === 'W2') {
    const start = now();
    await Promise.all(Array.from({ length: TASKS }, (_, n) => run('noop', n)));
    return TASKS / (now() - start);
  }
  if (kind === 'W3') {
    const data = randomBytes(Number(size) << 20), times = [];
    for (let n = 0; n < (size === '1' ? 30 : 3); n++) {
      const start = now();
      if ((await run('echo', data)).length !== data.length) throw new Error('cut short');
      times.push(now() - start);
    }
    return 2 * data.length / median(times) / 1e6;
  }
  if (kind === 'W7') {
    const naps = pareto(), start = now();
    await Promise.all(naps.map(seconds => run('nap', seconds)));
    return (now() - start) / Math.max(naps.reduce((a, b) => a + b) / workers, Math.max(...naps));
  }
  if (kind === 'W8') {
    for (let n = 0; n < 2; n++) run('nap', 600).catch(() => {});
    const before = process.memoryUsage.rss(), kept = [];
    for (let n = 0; n < TASKS; n++) kept.push(run('noop', n));
    kept.forEach(answer => answer.catch(() => {}));
    return (process.memoryUsage.rss() - before) / TASKS;
  }
  return null;
}

let value;
try {
  value = await measure();
} catch (error) {
  value = String(error.message ?? error).slice(0, 80);
}
console.log(JSON.stringify({ value }));
process.exit(0);
