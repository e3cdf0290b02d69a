// Runs the script of a page of gates without a browser: as much of a document as the script asks for.
// Prints what the page tells at first, after two keys on the cell states, after a click, in the second layer.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const path = process.argv[2];
const html = readFileSync(path, "utf8");
const data = html.match(/id="data">(.*?)<\/script>/s)[1];
const script = html.match(/<script type="module">(.*?)<\/script>/s)[1];
const pen = new Proxy({ measureText: (text) => ({ width: 7 * text.length }) }, {
  get: (own, key) => (key in own ? own[key] : () => {}),
  set: () => true,
});
const elements = {};
const element = (id) => (elements[id] ??= {
  style: {},
  handlers: {},
  value: "",
  textContent: id === "data" ? data : "",
  getContext: () => pen,
  setAttribute() {},
  getBoundingClientRect: () => ({ left: 0, top: 0 }),
  addEventListener(name, handler) { this.handlers[name] = handler; },
  replaceChildren(...options) { this.value = options[0].value; },
});
globalThis.document = { getElementById: element, body: {} };
globalThis.window = { devicePixelRatio: 1 };
globalThis.getComputedStyle = () => ({ color: "black" });
globalThis.Option = class { constructor(value) { this.value = value; } };
element("order").value = "number";

const module = `${path}.mjs`;
writeFileSync(module, script);
await import(pathToFileURL(module));
rmSync(module);
const told = [elements.told.textContent];
elements.gate.value = "cell";
for (const key of ["ArrowRight", "ArrowDown"]) elements.map.handlers.keydown({ key, preventDefault() {} });
told.push(elements.told.textContent);
elements.map.handlers.click({ clientX: 44 + 18 * 3 + 2, clientY: 5 });
told.push(elements.told.textContent);
elements.layer.value = "l1";
elements.layer.handlers.change();
told.push(elements.told.textContent);
console.log(JSON.stringify(told));
