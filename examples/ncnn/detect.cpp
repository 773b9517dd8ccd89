// Detects objects with a file of `onelook export --to ncnn` in ncnn. Prints a line of JSON for each image.
#include <net.h>

#include "../common/onelook.hpp"

int main(int argc, char** argv) {
    return onelook::run(argc, argv, [&] {
        const std::string param = argv[1];  // MODEL.param, with MODEL.bin and MODEL.param.json beside it
        const std::string weights = param.substr(0, param.rfind('.')) + ".bin";
        const auto description = onelook::Json::parse(onelook::read_file(param + ".json"));
        const onelook::Model model(description);
        ncnn::Net net;
        const bool half = description.at("precision") == "float16";
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = half;
        net.opt.use_bf16_storage = false;
        if (net.load_param(param.c_str()) != 0) throw std::runtime_error("'" + param + "' is not an ncnn model");
        if (net.load_model(weights.c_str()) != 0) throw std::runtime_error("'" + weights + "' holds other weights");

        onelook::detect_all(model, argc - 2, argv + 2, [&](std::vector<float> input) {
            // clone() lays the channels out as ncnn's layers need them.
            const ncnn::Mat images = ncnn::Mat(model.width, model.height, 3, input.data(), std::size_t(4), 1).clone();
            ncnn::Mat boxes, scores;
            auto extractor = net.create_extractor();
            extractor.input("images", images);
            if (extractor.extract("boxes", boxes) != 0 || extractor.extract("scores", scores) != 0)
                throw std::runtime_error("ncnn cannot run the model");
            return onelook::suppress(boxes, scores, scores.h, scores.w, model.suppression);
        });
    });
}
