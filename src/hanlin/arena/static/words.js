// Every word of the voting page, in both languages.
const WORDS = {
  title: ["翰林 · 盲评", "Hanlin · blind comparison"],
  brand: ["盲评", "Blind comparison"],
  theme: ["浅色 / 深色", "Light / dark"],
  language: ["Switch to English", "切换到中文"],
  otherLanguage: ["EN", "中"],
  leave: ["退出", "Leave"],
  welcome: ["哪个回答更好？", "Which answer is better?"],
  explain: ["每次看一个问题和两个回答，选出更好的那个。回答来自不同的模型，名字都藏起来了，左右是随机的。没有标准答案，按你自己的判断来。", "Each time you see a question and two answers; choose the better one. The answers come from different models whose names are hidden, and sides are random. There is no right answer: judge for yourself."],
  codeLabel: ["你的编号（6 个字符）", "Your code (6 characters)"],
  begin: ["开始", "Begin"],
  privacy: ["只记下你的选择和用时，不记名字和网络地址。", "Only your choices and their times are kept: no name, no network address."],
  question: ["问题", "Question"],
  first: ["回答一", "Answer 1"],
  second: ["回答二", "Answer 2"],
  empty: ["（没有回答）", "(no answer)"],
  thoughtRemoved: ["有的回答先写了思考过程，已略去，只比较答案。", "Some answer began with reasoning; it is left out, compare the answers."],
  choose: ["你的选择", "Your choice"],
  left: ["回答一更好", "Answer 1 is better"],
  right: ["回答二更好", "Answer 2 is better"],
  tie: ["一样好", "Equally good"],
  bad: ["都不好", "Both bad"],
  skip: ["跳过这一题", "Skip this one"],
  keys: ["键盘：1 / ← 回答一，2 / → 回答二，3 / ↓ 一样好，4 都不好，R 选原因，U 撤回", "Keys: 1 / ← answer 1, 2 / → answer 2, 3 / ↓ equal, 4 both bad, R reasons, U undo"],
  reasons: ["差的那个（可不选）", "The worse one (optional)"],
  reasonsOpen: ["按 1–7 选原因，Esc 或 R 返回", "Press 1–7 for reasons, Esc or R to go back"],
  fluency: ["不通顺", "Not fluent"],
  relevance: ["答非所问", "Off the point"],
  facts: ["事实错误", "Wrong facts"],
  repetition: ["重复", "Repeats"],
  short: ["太短", "Too short"],
  long: ["太长", "Too long"],
  unsafe: ["不安全", "Unsafe"],
  undo: ["撤回上一票（{0}）", "Undo the last vote ({0})"],
  undone: ["已撤回，请重新选择。", "Taken back; choose again."],
  count: ["第 {0} 题，共 {1} 题", "{0} of {1}"],
  voted: ["已记下。", "Noted."],
  thanks: ["谢谢，都评完了！", "Thank you, that was all!"],
  doneText: ["你一共评了 {0} 题。结果要等大家都评完以后，由老师公布。", "You judged {0} battles. The results come when everybody has finished."],
  unknown_code: ["没有这个编号。请看清纸条上的字符（没有 0、O、1、I、L）。", "There is no such code. Look at the slip again (no 0, O, 1, I or L is used)."],
  too_many_codes: ["试错太多次了，请等一分钟再试。", "Too many wrong codes; wait a minute."],
  too_fast: ["太快了，请稍等。", "Too fast; wait a moment."],
  used_token: ["这一题已经评过了，这里是下一题。", "That one was judged already; here is the next."],
  expired_token: ["这一题放得太久了，请再看一遍。", "That one lay too long; please look at it again."],
  unknown_token: ["这一题已经换过了，请看现在这一题。", "That one was replaced; here is the current one."],
  nothing_to_undo: ["撤回的时间过了。", "It is too late to undo."],
  busy: ["服务器正忙，请再试一次。你的票还没记下。", "The server is busy; try again. Your vote was not noted."],
  network: ["连不上服务器。请再试一次，同一题不会记两票。", "Cannot reach the server. Try again: no battle is counted twice."],
  internal: ["服务器出错了，请再试一次。", "The server failed; try again."],
};

export const REASONS = ["fluency", "relevance", "facts", "repetition", "short", "long", "unsafe"];

let index = 0;

export function setLanguage(language) {
  index = language === "en" ? 1 : 0;
  document.documentElement.lang = index ? "en" : "zh-CN";
  document.title = t("title");
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  for (const node of document.querySelectorAll("[data-t-label]")) node.setAttribute("aria-label", t(node.dataset.tLabel));
  for (const node of document.querySelectorAll("[data-t-title]")) {
    node.title = t(node.dataset.tTitle);
    node.setAttribute("aria-label", node.title);
  }
}

export function t(key, ...values) {
  const words = WORDS[key] || WORDS.internal;
  return words[index].replace(/\{(\d)\}/g, (_, i) => String(values[i]));
}

export function language() {
  return index ? "en" : "zh";
}
