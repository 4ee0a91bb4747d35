// On file:, browsers start no workers. The search of the site then runs in a hidden frame, which this class makes look
// like one: the theme asks for a file of this name and for these two globals.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentWindow;
      // What the worker posts is an event of this object, and the other way round.
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => Promise.all(urls.map((each) => load(each)));
      const load = (each) => new Promise((done, failed) => {
        const script = inside.document.createElement("script");
        Object.assign(script, { src: new URL(each, document.baseURI), onload: done, onerror: failed });
        inside.document.body.append(script);
      });
      const ready = load(url);
      ready.catch(() => this.dispatchEvent(new Event("error")));
      this.postMessage = (data) => void ready.then(() => inside.dispatchEvent(new MessageEvent("message", { data })));
      this.terminate = () => frame.remove();
    }
  };
}
