// Detects objects with a file of `onelook export --to onnx` in OpenCV's DNN module. Prints a line of JSON for each image.
#include <opencv2/dnn.hpp>

#include "../common/onelook.hpp"

int main(int argc, char** argv) {
    return onelook::run(argc, argv, [&] {
        const std::string file = onelook::read_file(argv[1]);
        const onelook::Model model(onelook::onnx_description(file));
        if (model.suppresses) throw std::runtime_error("OpenCV does not run NMS inside a model: export it without --nms");
        cv::dnn::Net net = cv::dnn::readNetFromONNX(file.data(), file.size());

        onelook::detect_all(model, argc - 2, argv + 2, [&](std::vector<float> input) {
            const int shape[] = {model.batch, 3, model.height, model.width};
            net.setInput(cv::Mat(4, shape, CV_32F, input.data()), "images");
            std::vector<cv::Mat> outputs;
            net.forward(outputs, std::vector<cv::String>{"boxes", "scores"});
            const int rows = outputs[1].size[1], classes = outputs[1].size[2];
            return onelook::suppress(outputs[0].ptr<float>(), outputs[1].ptr<float>(), rows, classes, model.suppression);
        });
    });
}
