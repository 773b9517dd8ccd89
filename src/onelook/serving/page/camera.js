// The camera: a preview, photos of it, and live detection frame by frame.

import { ServerError } from "./server.js";

// Why the camera cannot be used, and what to do, in words for the user.
export class CameraError extends Error {
  constructor(message, remedy) {
    super(message);
    this.remedy = remedy;
  }
}

const CHOOSE = "Or choose an image: on a phone that offers the camera, too.";
const REASONS = {
  NotAllowedError: ["The camera was not allowed.", `Allow it for this page in the browser's address bar, then try again. ${CHOOSE}`],
  NotFoundError: ["No camera was found.", `Connect one, then try again. ${CHOOSE}`],
  NotReadableError: ["The camera is used by another program.", `Close that program, then try again. ${CHOOSE}`],
};

async function openCamera(video) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new CameraError("The browser offers the camera only to pages of https:// or localhost.", `Open this page over HTTPS. ${CHOOSE}`);
  }
  const wanted = { audio: false, video: { facingMode: { ideal: "environment" }, width: { ideal: 1280 }, height: { ideal: 720 } } };
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
    await video.play();
  } catch (error) {
    closeCamera(video);
    const [message, remedy] = REASONS[error.name] ?? [`The camera could not be opened (${error.name}).`, CHOOSE];
    throw new CameraError(message, remedy);
  }
}

function closeCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

async function takePhoto(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = canvas.width ? await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92)) : null;
  if (!blob) throw new CameraError("The camera has given no image yet.", "Wait a moment, then try again.");
  return new File([blob], "camera.jpg", { type: "image/jpeg" });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const isOwnError = (error) => error instanceof ServerError || error instanceof CameraError;

// Connects the camera's buttons. Returns {stop, isLive}.
export function connectCamera(page, { useFile, showError, clearError }) {
  let live = false;

  function setLive(value) {
    live = value;
    page.live.setAttribute("aria-pressed", String(value));
    page.camera.classList.toggle("is-live", value); // the answered frame takes the preview's place
  }

  function stop() {
    setLive(false);
    page.camera.hidden = true;
    page.openCamera.setAttribute("aria-expanded", "false");
    closeCamera(page.video);
  }

  // One frame after the other: the next is taken when the last is answered, so the server is never flooded.
  async function runLive() {
    while (live) {
      try {
        if (document.hidden) await pause(500);
        else await useFile(await takePhoto(page.video), { live: true });
        await pause(30);
      } catch (error) {
        if (!isOwnError(error)) throw error;
        if (error.retryAfter) await pause(error.retryAfter * 1000);
        else {
          setLive(false);
          showError(error, error instanceof ServerError ? () => page.live.click() : null);
        }
      }
    }
  }

  page.openCamera.addEventListener("click", async () => {
    if (!page.camera.hidden) return stop();
    clearError();
    try {
      await openCamera(page.video);
      page.camera.hidden = false;
      page.openCamera.setAttribute("aria-expanded", "true");
      page.take.focus();
    } catch (error) {
      if (!isOwnError(error)) throw error;
      showError(error, () => page.openCamera.click());
    }
  });
  page.closeCamera.addEventListener("click", () => {
    stop();
    page.openCamera.focus();
  });
  page.take.addEventListener("click", async () => {
    try {
      const photo = await takePhoto(page.video);
      stop();
      page.openCamera.focus();
      await useFile(photo);
    } catch (error) {
      if (!isOwnError(error)) throw error;
      showError(error);
    }
  });
  page.live.addEventListener("click", () => {
    setLive(!live);
    if (live) void runLive();
  });
  return { stop, isLive: () => live };
}
