// Requests to this server. Addresses are relative: the page may stand under a path of a proxy.

const TIMEOUT = 120_000; // ms; the server's own deadline is shorter
const TOKEN_KEY = "onelook-token";

// An answer that is no result. `code` is the server's, or one of: unreachable, timeout, bad_answer.
export class ServerError extends Error {
  constructor(code, message, remedy, status = 0, retryAfter = 0) {
    super(message);
    Object.assign(this, { code, remedy, status, retryAfter });
  }
}

export function setToken(text) {
  sessionStorage.setItem(TOKEN_KEY, text);
}

export const fetchModels = async (signal) => {
  const answer = await request("v1/models", { signal });
  if (!Array.isArray(answer.models)) throw notUnderstood("v1/models");
  return answer.models;
};

// Detects objects in one image (a File). Returns the whole answer; `results[0]` is the image's.
export const detect = async (image, { model, version, threshold }, signal) => {
  const query = new URLSearchParams({ threshold: String(threshold) });
  if (model) query.set("model", model);
  if (version) query.set("version", version);
  const body = new FormData();
  body.append("image", image, image.name); // the server's messages name the file
  const answer = await request(`v1/detect?${query}`, { method: "POST", body, signal });
  const result = answer.results?.[0];
  if (!(result?.width > 0 && result.height > 0 && Array.isArray(result.detections))) throw notUnderstood("v1/detect");
  return answer;
};

async function request(path, { signal, headers = {}, ...options }) {
  const stop = new AbortController();
  const abort = () => stop.abort();
  signal?.addEventListener("abort", abort);
  const timer = setTimeout(abort, TIMEOUT);
  const token = sessionStorage.getItem(TOKEN_KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  headers.Accept = "application/json";
  try {
    const response = await fetch(path, { ...options, headers, signal: stop.signal, cache: "no-store", redirect: "error" });
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw refusal(response, answer);
    if (answer === null || typeof answer !== "object") throw notUnderstood(path.split("?")[0]);
    return answer;
  } catch (error) {
    if (error instanceof ServerError || signal?.aborted) throw error;
    if (stop.signal.aborted) {
      throw new ServerError("timeout", "The server did not answer within two minutes.", "Try again later, or with a smaller image.");
    }
    throw new ServerError("unreachable", "The server cannot be reached.", "Check that it runs and that this device is connected, then try again.");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function refusal(response, answer) {
  const told = answer?.error ?? {};
  const text = (value) => (typeof value === "string" ? value : "");
  const seconds = Number(response.headers.get("Retry-After")) || 0;
  const remedy = text(told.remedy) || (seconds ? `Try again in ${seconds} s.` : "");
  const message = text(told.message) || `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  return new ServerError(text(told.code) || `http_${response.status}`, message, remedy, response.status, seconds);
}

function notUnderstood(path) {
  return new ServerError("bad_answer", `The answer of ${path} is not in the expected form.`, "Reload the page: the server may have been updated.");
}
