// Images from a file, the clipboard, or dropped on the page.

export function connectFiles(page, { useFile, showError }) {
  function useFirst(files) {
    if (files.length) void useFile(files[0], { note: files.length > 1 ? `the first of ${files.length} files` : "" });
  }

  page.file.addEventListener("change", () => {
    useFirst([...page.file.files]);
    page.file.value = ""; // the same file can be chosen again
  });

  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) event.preventDefault();
    useFirst(files);
  });

  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    page.drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) page.drop.classList.remove("over"); // out of the window
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    page.drop.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (files.length) useFirst(files);
    else showError({ message: "What was dropped is not a file.", remedy: "Save the image, then drop its file here." });
  });

  // Phones have no Ctrl+V. Browsers offer the clipboard to pages of https:// and localhost only.
  page.paste.hidden = !navigator.clipboard?.read;
  page.paste.addEventListener("click", async () => {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((name) => name.startsWith("image/"));
        if (type) return useFirst([new File([await item.getType(type)], `pasted.${type.slice(6)}`, { type })]);
      }
      showError({ message: "There is no image in the clipboard.", remedy: "Copy an image, then paste it." });
    } catch {
      showError({ message: "The browser did not allow reading the clipboard.", remedy: "Press Ctrl+V, or choose the image as a file." });
    }
  });
}
