// Loads a model file into LiteRT.js or onnxruntime-web. An engine has run(input) -> output, both typed arrays.
"use strict";

const PACKAGES = new URL("packages/", self.location.href).href;

async function litert(file, bytes, backend, threads) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import(`${PACKAGES}litert/index.js`);
  const threaded = backend === "wasm" && threads > 1;
  // its WebAssembly is found by the address of the page otherwise
  self.Module = {
    locateFile: (name) => `${PACKAGES}litert/${name}`,
    mainScriptUrlOrBlob: `${PACKAGES}litert/litert_wasm_threaded_internal.js`,
  };
  const jspi = backend === "webgpu" && typeof WebAssembly.Suspending === "function";
  await loadLiteRt(`${PACKAGES}litert/`, { threads: threaded, jspi });
  const model = await loadAndCompile(bytes, {
    accelerator: backend,
    ...(threaded ? { cpuOptions: { numThreads: threads } } : {}),
  });
  if (backend === "webgpu" && !(model.isFullyAccelerated && model.options.accelerator === "webgpu")) {
    throw new Error("LiteRT.js does not run it wholly on WebGPU, so it would compute on the CPU");
  }
  const run = async (input) => {
    const tensor = new Tensor(input, file.shape);
    const outputs = await model.run(tensor);
    const values = await outputs[0].data();
    const kept = values.slice();
    tensor.delete();
    for (const output of outputs) if (!output.deleted) output.delete();
    return kept;
  };
  return { run, threads: threaded ? threads : 1, whole: backend === "webgpu" ? true : null };
}

async function onnx(file, bytes, backend, threads) {
  const ort = await import(`${PACKAGES}ort/ort.${backend}.min.mjs`);
  ort.env.wasm.wasmPaths = `${PACKAGES}ort/`;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? threads : 1;
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [backend] });
  const [input, output] = [session.inputNames[0], session.outputNames[0]];
  const run = async (values) => {
    const tensor = new ort.Tensor(file.dtype, values, file.shape);
    const outputs = await session.run({ [input]: tensor });
    return outputs[output].getData();
  };
  return { run, threads: ort.env.wasm.numThreads, whole: null };
}

const ENGINES = { "LiteRT.js": litert, "onnxruntime-web": onnx };

/** Loads `bytes` into the engine that the bench names for the file. */
function openEngine(file, bytes, backend, threads) {
  return ENGINES[file.engine](file, bytes, backend, self.crossOriginIsolated ? threads : 1);
}
