// The backend of one process keeps the contract.
import t from 'tap'
import { LocalBackend } from '../../lib/backend.ts'
import { backendConformance } from './conformance.ts'

backendConformance(t, () => new LocalBackend())
