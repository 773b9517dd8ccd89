// The camera: a preview, and photos of it as JPEG files.

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

export async function openCamera(video) {
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

export function closeCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

export async function takePhoto(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = canvas.width ? await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92)) : null;
  if (!blob) throw new CameraError("The camera has given no image yet.", "Wait a moment, then try again.");
  return new File([blob], "camera.jpg", { type: "image/jpeg" });
}
