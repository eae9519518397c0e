// A browser starts no worker for a page that was opened from the disk: run the search's in a hidden frame of the page.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.body.appendChild(document.createElement("iframe"));
      frame.hidden = true;
      this.inside = frame.contentWindow;
      frame.contentDocument.open(); // else Firefox loads an empty page over it, a moment later
      frame.contentDocument.write("<body></body>");
      frame.contentDocument.close();
      this.inside.postMessage = (data) => queueMicrotask(() => this.heard(new MessageEvent("message", { data })));
      this.loaded = new Promise((resolve) => {
        const script = Object.assign(frame.contentDocument.createElement("script"), { src: url, onload: resolve });
        frame.contentDocument.body.append(script);
      });
      this.hear = this.inside.dispatchEvent.bind(this.inside);
    }

    heard(event) {
      this.onmessage?.(event);
      this.dispatchEvent(event);
    }

    postMessage(data) {
      this.loaded.then(() => this.hear(new MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  };
}
