// The OpenAI-compatible API this page is served with.
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// All models that are served, the one that answers by default first.
export async function fetchModels() {
  const response = await request("/v1/models");
  return (await response.json()).data;
}

// Stream a reply; `onChunk` gets {content, reasoning, tokens, finish, usage}. Aborting `signal` ends it.
export async function streamChat(body, signal, onChunk) {
  const response = await request("/v1/chat/completions", {
    method: "POST", signal, headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => { throw asApiError(error); });
    if (done) throw new ApiError(0, "network", "the stream ended early");
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      const event = buffer.slice(0, end);
      buffer = buffer.slice(end + 2);
      if (!event.startsWith("data: ")) continue;
      const data = event.slice(6);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(500, chunk.error.code, chunk.error.message);
      const choice = chunk.choices[0];
      onChunk({
        content: choice?.delta.content || "",
        reasoning: choice?.delta.reasoning_content || "",
        tokens: choice?.logprobs?.content || [],
        finish: choice?.finish_reason || null,
        usage: chunk.usage || null,
      });
    }
  }
}

// What the page offers as first questions: [{text, title: {zh, en}}], none if it should use its own.
export async function fetchSuggestions() {
  const found = await (await request("/suggestions")).json();
  return Array.isArray(found) ? found.filter((entry) => entry && typeof entry.text === "string") : [];
}

// A connection that breaks is an error of the network, whether before the answer or in the middle of it.
function asApiError(error) {
  return error.name === "AbortError" ? error : new ApiError(0, "network", String(error));
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw asApiError(error);
  }
  if (response.ok) return response;
  let detail = {};
  try { detail = (await response.json()).error || {}; } catch { /* not an error object */ }
  throw new ApiError(response.status, detail.code || null, detail.message || response.statusText);
}
