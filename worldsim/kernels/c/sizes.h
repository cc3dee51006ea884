/* Sizes of the structs that Python fills in; library.py compares them with its own. */

#define SIZE_OF(type) size_t KERNEL(size_of_##type)(void) { return sizeof(type); }

SIZE_OF(BlockData)
SIZE_OF(CameraData)
SIZE_OF(DecoderData)
SIZE_OF(DenseData)
SIZE_OF(FlowHeadData)
SIZE_OF(WalkableMapData)
SIZE_OF(GeneratorData)
SIZE_OF(LstmData)
SIZE_OF(LstmStateData)
SIZE_OF(MixerData)
SIZE_OF(MotionData)
SIZE_OF(NormData)
SIZE_OF(LayerKVData)
SIZE_OF(SceneData)
SIZE_OF(PreparedData)
SIZE_OF(RecurrentData)
SIZE_OF(VaeData)
