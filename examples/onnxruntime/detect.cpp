// Detects objects with a file of `onelook export --to onnx` in ONNX Runtime. Prints a line of JSON for each image.
#include <onnxruntime_cxx_api.h>

#include "../common/onelook.hpp"

int main(int argc, char** argv) {
    return onelook::run(argc, argv, [&] {
        const std::string file = onelook::read_file(argv[1]);
        Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
        Ort::Session session(environment, file.data(), file.size(), Ort::SessionOptions());
        Ort::AllocatorWithDefaultOptions allocator;
        auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("onelook", allocator);
        if (!text) throw std::runtime_error("the model was not made by `onelook export`");
        const onelook::Model model(onelook::Json::parse(text.get()));
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const char* images[] = {"images"};

        onelook::detect_all(model, argc - 2, argv + 2, [&](std::vector<float> input) {
            const std::array<std::int64_t, 4> shape{model.batch, 3, model.height, model.width};
            auto tensor = Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape.data(), shape.size());
            auto run = [&](std::vector<const char*> names) {
                return session.Run(Ort::RunOptions(), images, &tensor, 1, names.data(), names.size());
            };
            std::vector<onelook::Detection> found;
            if (model.suppresses) {  // NMS is inside the file
                auto outputs = run({"count", "boxes", "scores", "labels"});
                const float *boxes = outputs[1].GetTensorData<float>(), *scores = outputs[2].GetTensorData<float>();
                const auto* labels = outputs[3].GetTensorData<std::int64_t>();
                for (std::int64_t i = 0; i < outputs[0].GetTensorData<std::int64_t>()[0]; ++i, boxes += 4)
                    found.push_back({{boxes[0], boxes[1], boxes[2], boxes[3]}, scores[i], int(labels[i])});
                return found;
            }
            auto outputs = run({"boxes", "scores"});
            const auto size = outputs[1].GetTensorTypeAndShapeInfo().GetShape();  // (batch, rows, classes)
            return onelook::suppress(outputs[0].GetTensorData<float>(), outputs[1].GetTensorData<float>(), size[1], size[2],
                                     model.suppression);
        });
    });
}
