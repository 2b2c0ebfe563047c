// What piscina runs.
const { threadId } = require('node:worker_threads');

module.exports = {
  noop: n => n,
  echo: data => data,
  nap: seconds => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, seconds * 1e3);
    return threadId;
  },
};
