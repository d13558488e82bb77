// Every word of the page, in both languages.
const WORDS = {
  newChat: ["新对话", "New chat"],
  history: ["对话历史", "History"],
  today: ["今天", "Today"],
  earlier: ["更早", "Earlier"],
  noHistory: ["还没有对话", "No chats yet"],
  untitled: ["新对话", "New chat"],
  exportAll: ["导出全部对话（JSONL，可直接用作微调数据）", "Export all chats (JSONL, ready for fine-tuning)"],
  theme: ["外观", "Appearance"],
  themeSystem: ["外观：跟随系统", "Appearance: system"],
  themeLight: ["外观：浅色", "Appearance: light"],
  themeDark: ["外观：深色", "Appearance: dark"],
  language: ["Switch to English", "切换到中文"],
  otherLanguage: ["EN", "中文"],
  sidebar: ["侧栏", "Sidebar"],
  model: ["模型", "Model"],
  settings: ["设置", "Settings"],
  close: ["关闭", "Close"],
  toBottom: ["回到最新", "Jump to latest"],
  placeholder: ["说点什么…", "Say something…"],
  thinking: ["思考方式", "Thinking"],
  thinkAuto: ["自动", "Auto"],
  thinkOn: ["先思考", "Think"],
  thinkOff: ["直接答", "Direct"],
  send: ["发送（Enter）", "Send (Enter)"],
  stop: ["停止（Esc）", "Stop (Esc)"],
  hint: ["Enter 发送 · Shift+Enter 换行 · 回答由小模型生成，可能有误", "Enter sends · Shift+Enter new line · A small model wrote this; it may be wrong"],
  system: ["系统提示", "System prompt"],
  systemPlaceholder: ["例如：你是一个爱讲故事的老师。", "For example: You are a teacher who loves stories."],
  temperature: ["温度", "Temperature"],
  temperatureHelp: ["越高越多变，0 总取最可能的词", "Higher is more varied; 0 always takes the likeliest token"],
  topP: ["Top-p", "Top-p"],
  topPHelp: ["只在累计概率达到它的词里选", "Choose among the likeliest tokens that reach this share"],
  maxTokens: ["最多生成", "Longest reply"],
  maxTokensHelp: ["单位：词元", "In tokens"],
  topK: ["Top-k", "Top-k"],
  topKHelp: ["只在最可能的这么多个词里选，0 为不限", "Choose among this many of the likeliest tokens; 0 is all"],
  minP: ["Min-p", "Min-p"],
  minPHelp: ["去掉概率不到最高者这个比例的词", "Drop tokens less likely than this share of the likeliest"],
  repetitionPenalty: ["重复惩罚", "Repetition penalty"],
  repetitionPenaltyHelp: ["大于 1 时少重复已经出现过的词", "Above 1, tokens seen before become less likely"],
  seed: ["种子", "Seed"],
  seedPlaceholder: ["随机", "random"],
  seedHelp: ["填一个整数，同样的问题就得到同样的回答", "With a number, the same question gets the same reply"],
  copyFailed: ["没能复制，请手动选取。", "Could not copy; please select the text."],
  probabilities: ["显示每个词的概率", "Show token probabilities"],
  probabilitiesHelp: ["底色越深，模型越没把握；点按可看它还想过什么", "The darker, the less sure; point at a token to see what else it considered"],
  resetSettings: ["恢复默认设置", "Reset settings"],
  clearHistory: ["清空全部对话", "Delete all chats"],
  clearQuestion: ["删除这个浏览器里的全部对话？", "Delete all chats in this browser?"],
  deleteChat: ["删除", "Delete"],
  deleteQuestion: ["删除这段对话？", "Delete this chat?"],
  copy: ["复制", "Copy"],
  copied: ["已复制", "Copied"],
  again: ["重新生成", "Regenerate"],
  edit: ["修改并重发", "Edit and resend"],
  cancel: ["取消", "Cancel"],
  resend: ["发送", "Send"],
  thinkingNow: ["思考中…", "Thinking…"],
  thought: ["思考 {0} 秒", "Thought for {0} s"],
  stats: ["{0} 词元 · {1} 词元/秒", "{0} tokens · {1} tokens/s"],
  stopped: ["已停止", "Stopped"],
  lengthReached: ["到达长度上限", "Length limit reached"],
  forgotten: ["较早的 {0} 条消息超出了模型的上下文，没有发送", "{0} earlier messages are beyond the model's context and were not sent"],
  contextUse: ["上下文 {0} / {1}", "Context {0} / {1}"],
  greeting: ["有什么想聊的？", "What shall we talk about?"],
  greetingSub: ["一个从零训练的小模型，正在这台机器上听你说", "A small model trained from scratch, listening on this machine"],
  emptyReply: ["（模型没有说话）", "(the model said nothing)"],
  retry: ["重试", "Retry"],
  failNetwork: ["连不上服务。它还在运行吗？", "Cannot reach the server. Is it still running?"],
  failQueue: ["排队的人太多了，请稍等片刻再试。", "Too many requests are waiting. Try again in a moment."],
  failTimeout: ["这次回答用时太久，被服务器中断了。", "This reply took too long and was ended by the server."],
  failContext: ["这条消息比模型的上下文（{0} 词元）还长，请缩短。", "This message is longer than the model's context ({0} tokens); shorten it."],
  failKey: ["需要 API key：请刷新页面并登录（密码就是 key）。", "An API key is needed: reload the page and log in (the key is the password)."],
  failServer: ["服务器出错了：{0}", "The server failed: {0}"],
  storageFull: ["浏览器存储已满，删去了最早的对话。", "Browser storage is full; the oldest chat was removed."],
  probability: ["概率 {0}%", "Probability {0}%"],
};

// First questions where the server has none of its own. The models speak Chinese whatever the language of the page.
export const SUGGESTIONS = ["你好，你是谁？", "讲一个发生在公园里的小故事。", "小明有5颗糖，又买了3颗，现在一共有几颗？", "早上好！"].map((text) => ({ text }));

let index = 0;

export function setLanguage(language) {
  index = language === "en" ? 1 : 0;
  document.documentElement.lang = index ? "en" : "zh-CN";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-t-title]")) setTitle(node, t(node.dataset.tTitle));
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
  for (const node of document.querySelectorAll("[data-t-placeholder]")) node.placeholder = t(node.dataset.tPlaceholder);
}

export function t(key, ...values) {
  return WORDS[key][index].replace(/\{(\d)\}/g, (_, i) => String(values[i]));
}

// The text of {zh, en} in the page's language, or in the other one.
export function choose(texts) {
  return texts ? (index ? texts.en || texts.zh : texts.zh || texts.en) : undefined;
}

export function setTitle(node, text) {
  node.title = text;
  node.setAttribute("aria-label", text);
}
